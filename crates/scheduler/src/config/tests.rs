use super::*;
use crate::framework::{DefaultConstraints, Point, ScoringStrategy, ShapePoint};
use crate::snapshot::Snapshot;

fn file(body: &str) -> String {
    format!("apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n{body}")
}

fn parsed(body: &str) -> Config {
    Config::parse(file(body).as_bytes()).unwrap_or_else(|error| panic!("{body}: {error}"))
}

fn refused(body: &str) -> String {
    match Config::parse(file(body).as_bytes()) {
        Ok(_) => panic!("accepted: {body}"),
        Err(error) => error.to_string(),
    }
}

fn only_profile(body: &str) -> Profile {
    parsed(body).profiles(&mut Snapshot::default().catalogue).remove(0)
}

fn names(profile: &Profile, point: Point) -> Vec<&'static str> {
    profile.at(point).map(|enabled| enabled.plugin.name).collect()
}

#[test]
fn an_empty_file_is_the_default() {
    for configuration in [parsed(""), Config::default()] {
        let profiles = configuration.profiles(&mut Snapshot::default().catalogue);
        let (read, default) = (&profiles[0], Profile::default());
        assert_eq!(profiles.len(), 1);
        assert_eq!(read.scheduler_name, default.scheduler_name);
        for (point, ..) in plugins::POINTS.into_iter().chain([(Point::NormalizeScore, "", "")]) {
            let [mut read, mut default] = [read, &default].map(|profile| names(profile, point));
            if point == Point::PreEnqueue {
                // Which of them holds a pod back first makes no difference.
                read.sort_unstable();
                default.sort_unstable();
            }
            assert_eq!(read, default, "{point:?}");
        }
        let weights =
            |profile: &Profile| -> Vec<i64> { profile.at(Point::Score).map(|e| e.weight).collect() };
        assert_eq!(weights(read), weights(&default));
        assert!(matches!(read.arguments.fit.scoring, ScoringStrategy::LeastAllocated));
        let election = &configuration.leader_election;
        assert!(election.leader_elect);
        let durations = [election.lease_duration, election.renew_deadline, election.retry_period];
        assert_eq!(durations.map(|nanoseconds| nanoseconds / 1_000_000_000), [15, 10, 2]);
        assert_eq!(
            (election.resource_namespace.as_str(), election.resource_name.as_str()),
            ("kube-system", "kube-scheduler")
        );
        assert_eq!(
            (configuration.pod_initial_backoff_seconds, configuration.pod_max_backoff_seconds),
            (1, 10)
        );
    }
}

#[test]
fn what_is_no_such_document_is_refused() {
    let parse = |text: &str| Config::parse(text.as_bytes()).map(drop).map_err(|e| e.to_string());
    let error = |text: &str| Err::<(), _>(text.to_owned());
    assert_eq!(parse("apiVersion: v1\n"), error("Object 'Kind' is missing in '{\"apiVersion\":\"v1\"}'"));
    assert_eq!(parse("kind: X\n"), error("Object 'apiVersion' is missing in '{\"kind\":\"X\"}'"));
    let version = "kubescheduler.config.k8s.io/v1beta3";
    assert_eq!(
        parse(&format!("apiVersion: {version}\nkind: {KIND}\n")),
        error(&format!("no kind \"{KIND}\" is registered for version \"{version}\""))
    );
    assert_eq!(
        parse(&format!("apiVersion: {API_VERSION}\nkind: PodTopologySpreadArgs\n")),
        error(&format!("couldn't decode as {KIND}, got {API_VERSION}, Kind=PodTopologySpreadArgs"))
    );
    assert!(parse("{\"a\": ").unwrap_err().contains("unexpected end of JSON input"));
    let json = format!(
        "{{\"apiVersion\": \"{API_VERSION}\", \"kind\": \"{KIND}\", \"profiles\": [{{\"schedulerName\": \"a\"}}]}}"
    );
    assert_eq!(parse(&json), Ok(()));
}

#[test]
fn decoding_is_strict() {
    let nested = |plugin: &str, what: &str| {
        format!(
            "strict decoding error: decoding .profiles[0].pluginConfig[0]: strict decoding error: \
                 decoding args for plugin {plugin}: strict decoding error: {what}"
        )
    };
    let arguments = |plugin: &str, args: &str| {
        format!("profiles: [{{pluginConfig: [{{name: {plugin}, args: {args}}}]}}]")
    };
    let cases = [
        ("foo: 1".to_owned(), "strict decoding error: unknown field \"foo\"".to_owned()),
        (
            "profiles: [{schedulerName: a, plugins: {filter: {enable: []}}}]\nextenders: [{urlPrefix: x, TLSConfig: {}}]".to_owned(),
            "strict decoding error: unknown field \"profiles[0].plugins.filter.enable\", unknown field \"extenders[0].TLSConfig\""
                .to_owned(),
        ),
        (
            "parallelism: 1\nparallelism: 2".to_owned(),
            "strict decoding error: yaml: unmarshal errors:\n  line 4: key \"parallelism\" already set in map".to_owned(),
        ),
        (
            "profiles: [{schedulerName: 5}]".to_owned(),
            format!("json: cannot unmarshal number into Go struct field {KIND}.profiles[0].schedulerName of type string"),
        ),
        ("leaderElection: {leaseDuration: 15}".to_owned(), format!("json: cannot unmarshal number into Go struct field {KIND}.leaderElection.leaseDuration of type string")),
        (
            arguments("NodeResourcesFit", "{scoringStrategy: {resources: [{Name: cpu, Weight: 1}]}}"),
            nested("NodeResourcesFit", "unknown field \"scoringStrategy.resources[0].Name\", unknown field \"scoringStrategy.resources[0].Weight\""),
        ),
        (
            arguments("PodTopologySpread", "{defaultConstraints: [{maxSkew: 1, foo: 2}], defaultingType: List}"),
            nested("PodTopologySpread", "unknown field \"defaultConstraints[0].foo\""),
        ),
        (
            arguments("DefaultPreemption", &format!("{{apiVersion: {API_VERSION}, kind: InterPodAffinityArgs}}")),
            "decoding .profiles[0].pluginConfig[0]: args for plugin DefaultPreemption were not of type \
             DefaultPreemptionArgs.kubescheduler.config.k8s.io, got InterPodAffinityArgs.kubescheduler.config.k8s.io"
                .to_owned(),
        ),
        (
            arguments("InterPodAffinity", "{hardPodAffinityWeight: many}"),
            "decoding .profiles[0].pluginConfig[0]: decoding args for plugin InterPodAffinity: json: cannot unmarshal \
             string into Go struct field InterPodAffinityArgs.hardPodAffinityWeight of type int32"
                .to_owned(),
        ),
    ];
    for (body, expected) in cases {
        assert_eq!(refused(&body), expected, "{body}");
    }
    parsed(&arguments("SomebodyElses", "{foo: {bar: 1}}"));
    parsed(&arguments("DefaultPreemption", "null"));
}

#[test]
fn values_are_judged_with_their_paths() {
    let cases = [
        ("parallelism: 0", "parallelism: Invalid value: 0: should be an integer value greater than zero"),
        (
            "leaderElection: {leaseDuration: 5s, renewDeadline: 10s, resourceLock: endpoints}",
            "leaderElection.leaseDuration: Invalid value: 10s: must be greater than `RenewDeadline`\n\
             leaderElection.resourceLock: Invalid value: \"endpoints\": resourceLock value must be \"leases\"",
        ),
        ("clientConnection: {burst: -1}", "clientConnection.burst: Invalid value: -1: must be non-negative"),
        (
            "percentageOfNodesToScore: 101",
            "percentageOfNodesToScore: Invalid value: 101: not in valid range [0-100]",
        ),
        ("podInitialBackoffSeconds: 0", "podInitialBackoffSeconds: Invalid value: 0: must be greater than 0"),
        (
            "podInitialBackoffSeconds: 20",
            "podMaxBackoffSeconds: Invalid value: 10: must be greater than or equal to PodInitialBackoffSeconds",
        ),
        (
            "profiles: [{schedulerName: a}, {schedulerName: a}, {percentageOfNodesToScore: -1}]",
            "profiles[1].schedulerName: Duplicate value: profiles[0].schedulerName\n\
             profiles[2].schedulerName: Required value\n\
             profiles[2].percentageOfNodesToScore: Invalid value: -1: not in valid range [0-100]",
        ),
        (
            "profiles: [{schedulerName: a}, {schedulerName: b, plugins: {queueSort: {enabled: [{name: PrioritySort}]}}}]",
            "profiles[1].plugins.queueSort: Invalid value: must be the same for all profiles",
        ),
        (
            "profiles: [{plugins: {filter: {enabled: [{name: EBSLimits}]}}}]",
            "profiles[0].plugins.filter.enabled[0]: Invalid value: \"EBSLimits\": was invalid in version \"v1\" \
             (KubeSchedulerConfiguration is version \"kubescheduler.config.k8s.io/v1\")",
        ),
        (
            "extenders: [{urlPrefix: u, prioritizeVerb: p, bindVerb: b, managedResources: [{name: foo}]}, \
             {urlPrefix: v, bindVerb: b, managedResources: [{name: example.com/foo}, {name: example.com/foo}]}]",
            "extenders[0].weight: Invalid value: 0: must have a positive weight applied to it\n\
             extenders[0].managedResources[0].name: Invalid value: \"foo\": is an invalid extended resource name\n\
             extenders[1].managedResources[1].name: Invalid value: \"example.com/foo\": duplicate extender managed resource name\n\
             extenders: Invalid value: \"found 2 extenders implementing bind\": only one extender can implement bind",
        ),
    ];
    for (body, expected) in cases {
        assert_eq!(refused(body), expected, "{body}");
    }
    parsed("leaderElection: {leaderElect: false, resourceLock: endpoints}");
}

/// Plugins, arguments, and what is wrong with them.
const BAD_ARGUMENTS: &[(&str, &str, &[&str])] = &[
    (
        "DefaultPreemption",
        "{minCandidateNodesPercentage: 0, minCandidateNodesAbsolute: 0}",
        &[
            "minCandidateNodesPercentage: Invalid value: 0: cannot be zero at the same time as minCandidateNodesAbsolute",
            "minCandidateNodesAbsolute: Invalid value: 0: cannot be zero at the same time as minCandidateNodesPercentage",
        ],
    ),
    (
        "DefaultPreemption",
        "{minCandidateNodesPercentage: 200}",
        &["minCandidateNodesPercentage: Invalid value: 200: not in valid range [0, 100]"],
    ),
    (
        "InterPodAffinity",
        "{hardPodAffinityWeight: 101}",
        &["hardPodAffinityWeight: Invalid value: 101: not in valid range [0, 100]"],
    ),
    (
        "NodeResourcesBalancedAllocation",
        "{resources: [{name: cpu}, {name: cpu, weight: 2}]}",
        &["resources[1].name: Duplicate value: \"cpu\"", "resources[1].weight: Invalid value: 2: must be 1"],
    ),
    (
        "NodeResourcesFit",
        "{ignoredResourceGroups: [a/b], scoringStrategy: {type: Foo, resources: [{name: cpu, weight: 101}]}}",
        &[
            "ignoredResourceGroups[0]: Invalid value: \"a/b\": resource group name can't contain '/'",
            "scoringStrategy.type: Unsupported value: \"Foo\": supported values: \"LeastAllocated\", \"MostAllocated\", \"RequestedToCapacityRatio\"",
            "scoringStrategy.resources[0].weight: Invalid value: 101: resource weight of cpu not in valid range (0, 100]",
        ],
    ),
    (
        "NodeResourcesFit",
        "{scoringStrategy: {type: RequestedToCapacityRatio}}",
        &[
            "scoringStrategy.requestedToCapacityRatio: Required value: must be specified when type is RequestedToCapacityRatio",
        ],
    ),
    (
        "NodeResourcesFit",
        "{scoringStrategy: {type: RequestedToCapacityRatio, requestedToCapacityRatio: {shape: [{utilization: 10, score: 11}, {utilization: 5}]}}}",
        &[
            "scoringStrategy.requestedToCapacityRatio.shape[1].utilization: Invalid value: 5: values must be sorted in increasing order",
            "scoringStrategy.requestedToCapacityRatio.shape[0].score: Invalid value: 11: not in valid range [0, 10]",
        ],
    ),
    (
        "PodTopologySpread",
        "{defaultConstraints: [{maxSkew: 0, topologyKey: '', whenUnsatisfiable: Maybe, labelSelector: {}}]}",
        &[
            "defaultingType: Invalid value: \"System\": when .defaultConstraints are not empty",
            "defaultConstraints[0].maxSkew: Invalid value: 0: not in valid range (0, inf)",
            "defaultConstraints[0].topologyKey: Required value: can not be empty",
            "defaultConstraints[0].whenUnsatisfiable: Unsupported value: \"Maybe\": supported values: \"DoNotSchedule\", \"ScheduleAnyway\"",
            "defaultConstraints[0].labelSelector: Forbidden: constraint must not define a selector, as they deduced for each pod",
        ],
    ),
    (
        "VolumeBinding",
        "{bindTimeoutSeconds: -1, shape: [{utilization: 0, score: 1}]}",
        &[
            "bindTimeoutSeconds: Invalid value: -1: invalid BindTimeoutSeconds, should not be a negative value",
            "shape: Invalid value: [{\"score\":1,\"utilization\":0}]: unexpected field `shape`, remove it or turn on the feature gate StorageCapacityScoring",
        ],
    ),
    (
        "DynamicResources",
        "{filterTimeout: -1s, bindingTimeout: 1m}",
        &[
            "filterTimeout: Invalid value: -1s: must be zero or positive",
            "bindingTimeout: Forbidden: DRADeviceBindingConditions or DRAResourceClaimDeviceStatus feature gate is disabled",
        ],
    ),
    (
        "NodeAffinity",
        "{addedAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: In}]}]}}}",
        &[
            "addedAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].values: \
             Invalid value: []: for 'in', 'notin' operators, values set can't be empty",
        ],
    ),
];

#[test]
fn arguments_are_judged_with_their_paths() {
    let path = "profiles[0].pluginConfig[0].args";
    for (plugin, args, faults) in BAD_ARGUMENTS {
        let body = format!("profiles: [{{pluginConfig: [{{name: {plugin}, args: {args}}}]}}]");
        let expected: Vec<String> = faults.iter().map(|fault| format!("{path}.{fault}")).collect();
        assert_eq!(refused(&body), expected.join("\n"), "{plugin} {args}");
    }
    let twice = "profiles: [{pluginConfig: [{name: InterPodAffinity}, {name: InterPodAffinity}]}]";
    assert_eq!(refused(twice), "profiles[0].pluginConfig[1]: Duplicate value: \"InterPodAffinity\"");
}

#[test]
fn plugins_are_merged_in_upstreams_order() {
    let with = |plugins: &str| only_profile(&format!("profiles: [{{plugins: {plugins}}}]"));
    let score = |profile: &Profile| -> Vec<(&str, i64)> {
        profile.at(Point::Score).map(|enabled| (enabled.plugin.name, enabled.weight)).collect()
    };
    let none = with(
        "{multiPoint: {disabled: [{name: '*'}], enabled: [{name: PrioritySort}, {name: DefaultBinder}, {name: NodeName}]}}",
    );
    assert_eq!(names(&none, Point::Filter), ["NodeName"]);
    assert_eq!(score(&none), []);

    let reweighted = with("{score: {enabled: [{name: ImageLocality, weight: 7}, {name: NodeAffinity}]}}");
    let weight = |name: &str| score(&reweighted).into_iter().find(|(n, _)| *n == name).map(|(_, w)| w);
    assert_eq!(
        (weight("ImageLocality"), weight("NodeAffinity"), weight("TaintToleration")),
        (Some(7), Some(1), Some(3))
    );

    let anew = with("{multiPoint: {enabled: [{name: TaintToleration, weight: 9}, {name: NodeName}]}}");
    assert!(score(&anew).contains(&("TaintToleration", 9)));
    assert_eq!(names(&anew, Point::Filter), names(&Profile::default(), Point::Filter), "in its place");

    let ordered =
        with("{filter: {enabled: [{name: NodePorts}, {name: NodeName}], disabled: [{name: NodeAffinity}]}}");
    let filters = names(&ordered, Point::Filter);
    assert_eq!(filters[..3], ["NodePorts", "NodeName", "NodeUnschedulable"], "configured ones come first");
    assert!(!filters.contains(&"NodeAffinity") && names(&ordered, Point::Score).contains(&"NodeAffinity"));

    let alone = with(
        "{filter: {enabled: [{name: NodePorts}], disabled: [{name: '*'}]}, postFilter: {disabled: [{name: '*'}]}}",
    );
    assert_eq!(names(&alone, Point::Filter), ["NodePorts"]);
    assert_eq!(names(&alone, Point::PostFilter), [""; 0]);

    let later = with("{multiPoint: {disabled: [{name: NodePorts}]}, filter: {enabled: [{name: NodePorts}]}}");
    assert_eq!(
        names(&later, Point::Filter).last(),
        Some(&"NodePorts"),
        "what only the point names comes last"
    );
    assert!(!later.is_enabled("NodePorts", Point::PreFilter));
}

#[test]
fn plugins_in_the_wrong_place_are_refused() {
    let cases = [
        ("{filter: {enabled: [{name: Foo}]}}", ".filter: Invalid value: FilterPlugin \"Foo\" does not exist"),
        (
            "{multiPoint: {enabled: [{name: Foo}]}}",
            ".multiPoint: Invalid value: FilterPlugin \"Foo\" does not exist",
        ),
        (
            "{score: {enabled: [{name: NodeName}]}}",
            ".score: Invalid value: plugin \"NodeName\" does not extend ScorePlugin plugin",
        ),
        (
            "{permit: {enabled: [{name: DynamicResources}]}}",
            ".permit: Invalid value: plugin \"DynamicResources\" does not extend PermitPlugin plugin",
        ),
        (
            "{postBind: {enabled: [{name: VolumeBinding}]}}",
            ".postBind: Invalid value: plugin \"VolumeBinding\" does not extend PostBindPlugin plugin",
        ),
        (
            "{score: {enabled: [{name: ImageLocality}, {name: ImageLocality}]}}",
            ".score: Invalid value: plugin \"ImageLocality\" already registered as \"ScorePlugin\"",
        ),
        (
            "{multiPoint: {enabled: [{name: NodeName}, {name: NodeName}]}}",
            ".multiPoint: Invalid value: plugin \"NodeName\" already registered as \"FilterPlugin\"",
        ),
        (
            "{multiPoint: {disabled: [{name: '*'}]}}",
            ": Invalid value: only one queue sort plugin required for profile with scheduler name \"default-scheduler\", but got 0",
        ),
        (
            "{bind: {disabled: [{name: '*'}]}}",
            ": Invalid value: at least one bind plugin is needed for profile with scheduler name \"default-scheduler\"",
        ),
    ];
    for (plugins, expected) in cases {
        let body = format!("profiles: [{{plugins: {plugins}}}]");
        assert_eq!(refused(&body), format!("profiles[0].plugins{expected}"), "{plugins}");
    }
}

#[test]
fn arguments_reach_the_profile() {
    let body = "
profiles:
- schedulerName: packing
  pluginConfig:
  - name: NodeResourcesFit
    args:
      ignoredResources: [example.com/none]
      scoringStrategy:
        type: RequestedToCapacityRatio
        resources: [{name: cpu, weight: 3}, {name: example.com/gpu}]
        requestedToCapacityRatio: {shape: [{utilization: 0, score: 0}, {utilization: 100, score: 10}]}
  - name: NodeAffinity
    args:
      addedAffinity:
        requiredDuringSchedulingIgnoredDuringExecution:
          nodeSelectorTerms: [{matchExpressions: [{key: pool, operator: In, values: [batch]}]}]
        preferredDuringSchedulingIgnoredDuringExecution:
        - {weight: 5, preference: {matchExpressions: [{key: fast, operator: Exists}]}}
  - name: PodTopologySpread
    args:
      defaultingType: List
      defaultConstraints: [{maxSkew: 2, topologyKey: zone, whenUnsatisfiable: DoNotSchedule}]
  - {name: InterPodAffinity, args: {hardPodAffinityWeight: 4, ignorePreferredTermsOfExistingPods: true}}
  - {name: VolumeBinding, args: {bindTimeoutSeconds: 20}}
- schedulerName: plain
extenders:
- urlPrefix: http://127.0.0.1:1/
  managedResources: [{name: example.com/seen}, {name: example.com/theirs, ignoredByScheduler: true}]";
    let mut snapshot = Snapshot::default();
    let configuration = parsed(body);
    assert_eq!(
        configuration.profiles.iter().map(|p| &*p.scheduler_name).collect::<Vec<_>>(),
        ["packing", "plain"]
    );
    let profiles = configuration.profiles(&mut snapshot.catalogue);
    let arguments = &profiles[0].arguments;
    let points = [(0, 0), (100, 10)].map(|(utilization, score)| ShapePoint { utilization, score });
    assert_eq!(arguments.fit.scoring, ScoringStrategy::RequestedToCapacityRatio(points.into()));
    let resources = arguments.fit.resources.0.iter();
    let resources: Vec<_> =
        resources.map(|(id, weight)| (snapshot.catalogue.resources.name(*id), *weight)).collect();
    assert_eq!(resources, [("cpu", 3), ("example.com/gpu", 1)]);
    assert_eq!(arguments.fit.ignored_resources, ["example.com/theirs"], "an extender's take their place");
    assert_eq!(arguments.added_affinity.required.as_ref().map(Vec::len), Some(1));
    assert_eq!(arguments.added_affinity.preferred.len(), 1);
    assert_eq!(arguments.inter_pod_affinity.hard_weight, 4);
    assert!(arguments.inter_pod_affinity.ignore_preferred_terms_of_existing_pods);
    let DefaultConstraints::List(list) = &arguments.default_constraints else { panic!("a list") };
    assert!(list[0].hard && list[0].max_skew == 2);
    assert_eq!(profiles[1].arguments.inter_pod_affinity.hard_weight, 1);
    let waits = profiles.iter().map(|profile| profile.arguments.volume_binding.bind_timeout.as_secs());
    assert_eq!(waits.collect::<Vec<_>>(), [20, 600]);
}
