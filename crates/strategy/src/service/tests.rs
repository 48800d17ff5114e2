use serde_json::{Value, json};

use crate::testing::named::{created, merge, patched, stored, updated, warned};

fn with_spec(patch: Value) -> Value {
    merge(json!({"spec": {"ports": [{"port": 80}], "selector": {"a": "b"}}}), json!({"spec": patch}))
}

#[test]
fn a_plain_service_is_filled() {
    let object = stored("", "services", with_spec(json!({})));
    assert_eq!(
        object["spec"],
        json!({
            "internalTrafficPolicy": "Cluster",
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}], "selector": {"a": "b"},
            "sessionAffinity": "None", "type": "ClusterIP"
        })
    );
}

#[test]
fn addresses_and_node_ports_stay() {
    let mut old = stored("", "services", with_spec(json!({"type": "NodePort"})));
    old["spec"]["clusterIP"] = "10.96.0.7".into();
    old["spec"]["clusterIPs"] = json!(["10.96.0.7"]);
    old["spec"]["ports"][0]["nodePort"] = 30001.into();
    let bare = json!({"spec": {"clusterIP": null, "clusterIPs": null, "ports": [{"port": 80}]}});
    let (kept, faults) = patched("", "services", "", &old, bare);
    assert_eq!((&kept["spec"], faults), (&old["spec"], vec![]));
    let (plain, faults) = patched("", "services", "", &old, json!({"spec": {"type": "ClusterIP"}}));
    assert_eq!(faults, [""; 0]);
    assert!(plain["spec"]["ports"][0]["nodePort"].is_null());
    assert!(plain["spec"]["externalTrafficPolicy"].is_null());
    let moved = json!({"spec": {"ports": [{"port": 81}]}});
    let (kept, _) = patched("", "services", "", &old, moved);
    assert_eq!(kept["spec"]["ports"][0]["nodePort"], 30001, "ports are known by their name");
    let added = json!({"spec": {"type": "ClusterIP", "ports": [{"name": "a", "port": 80, "nodePort": 30001}, {"name": "b", "port": 81, "nodePort": 30002}]}});
    let (_, faults) = patched("", "services", "", &old, added);
    assert_eq!(faults.len(), 2, "one that is new keeps all: {faults:?}");
    old["spec"]["type"] = "LoadBalancer".into();
    let (kept, _) =
        patched("", "services", "", &old, json!({"spec": {"allocateLoadBalancerNodePorts": false}}));
    assert_eq!(kept["spec"]["ports"][0]["nodePort"], 30001);
}

#[test]
fn one_address_speaks_for_the_list() {
    let mut old = stored(
        "",
        "services",
        with_spec(json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"]})),
    );
    old["spec"]["ipFamilies"] = json!(["IPv4", "IPv6"]);
    old["spec"]["ipFamilyPolicy"] = "RequireDualStack".into();
    for (patch, ips) in [
        (json!({"clusterIP": "10.0.0.2", "clusterIPs": null}), json!(["10.0.0.2"])),
        (json!({"clusterIP": "10.0.0.2"}), json!(["10.0.0.2"])),
        (json!({"clusterIPs": null}), json!(["10.0.0.1", "fd00::1"])),
        (json!({"type": "ExternalName", "ipFamilies": ["IPv4"]}), Value::Null),
    ] {
        let (object, _) = patched("", "services", "", &old, json!({"spec": patch}));
        assert_eq!(object["spec"]["clusterIPs"], ips, "{patch}");
        if ips.is_null() {
            assert_eq!(
                object["spec"]["ipFamilies"],
                json!(["IPv4"]),
                "what was changed is refused, not dropped"
            );
        }
    }
}

fn refused(patch: Value, expected: &[&str]) {
    assert_eq!(created("", "services", with_spec(patch.clone())), expected, "{patch}");
}

#[test]
fn types_and_ports() {
    let cases = [
        (json!({"ports": []}), vec!["spec.ports: Required value"]),
        (
            json!({"type": "Foo"}),
            vec![
                "spec.type: Unsupported value: \"Foo\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
            ],
        ),
        (json!({"type": "LoadBalancer", "ports": [{"port": 10250}]}), vec![]),
        (
            json!({"type": "NodePort", "clusterIP": "None"}),
            vec![
                "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services",
            ],
        ),
        (
            json!({"type": "ExternalName", "clusterIP": "10.0.0.1"}),
            vec![
                "spec.clusterIPs: Forbidden: may not be set for ExternalName services",
                "spec.externalName: Required value",
            ],
        ),
        (
            json!({"ports": [{"port": 0, "protocol": "X", "targetPort": "UP"}, {"port": 1, "name": "A"}]}),
            vec![
                "spec.ports[0].name: Required value",
                "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "spec.ports[0].protocol: Unsupported value: \"X\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
                "spec.ports[0].targetPort: Invalid value: \"UP\": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
                "spec.ports[0].targetPort: Invalid value: \"UP\": must contain at least one letter (a-z)",
                "spec.ports[1].name: Invalid value: \"A\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
            ],
        ),
        (
            json!({"ports": [{"port": 1, "name": "a", "nodePort": 30000}, {"port": 1, "name": "a", "nodePort": 30000}]}),
            vec![
                "spec.ports[1].name: Duplicate value: \"a\"",
                "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
                "spec.ports[1].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
                "spec.ports[1].nodePort: Duplicate value: 30000",
                "spec.ports[1]: Duplicate value: {\"Name\":\"\",\"Protocol\":\"TCP\",\"AppProtocol\":null,\"Port\":1,\"TargetPort\":0,\"NodePort\":0}",
            ],
        ),
    ];
    cases.into_iter().for_each(|(patch, expected)| refused(patch, &expected));
}

#[test]
fn affinity_addresses_and_traffic() {
    let cases = [
        (
            json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}}),
            vec![
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401: must be greater than 0 and less than 86400",
            ],
        ),
        (
            json!({"externalIPs": ["127.0.0.1", "x"]}),
            vec![
                "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
                "spec.externalIPs[1]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ],
        ),
        (
            json!({"loadBalancerClass": "c", "allocateLoadBalancerNodePorts": true, "loadBalancerSourceRanges": ["x"]}),
            vec![
                "spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'",
                "spec.LoadBalancerSourceRanges[0]: Invalid value: \"x\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
                "spec.allocateLoadBalancerNodePorts: Forbidden: may only be used when `type` is 'LoadBalancer'",
                "spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'",
            ],
        ),
        (
            json!({"externalTrafficPolicy": "Local", "healthCheckNodePort": 1, "internalTrafficPolicy": "X", "trafficDistribution": "Y"}),
            vec![
                "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
                "spec.healthCheckNodePort: Invalid value: 1: may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
                "spec.internalTrafficPolicy: Unsupported value: \"X\": supported values: \"Cluster\", \"Local\"",
                "spec.trafficDistribution: Unsupported value: \"Y\": supported values: \"PreferClose\", \"PreferSameZone\", \"PreferSameNode\"",
            ],
        ),
        (
            json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "10.0.0.2"], "ipFamilies": ["IPv6", "IPv6", "X"]}),
            vec![
                "spec.ipFamilies[1]: Duplicate value: \"IPv6\"",
                "spec.ipFamilies[2]: Unsupported value: \"X\": supported values: \"IPv4\", \"IPv6\"",
                "spec.clusterIPs: Invalid value: [\"10.0.0.1\",\"10.0.0.2\"]: may specify no more than one IP for each IP family",
                "spec.clusterIPs[0]: Invalid value: \"10.0.0.1\": expected an IPv6 value as indicated by `ipFamilies[0]`",
                "spec.clusterIPs[1]: Invalid value: \"10.0.0.2\": expected an IPv6 value as indicated by `ipFamilies[1]`",
            ],
        ),
        (
            json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "10.0.0.2", "10.0.0.3"], "ipFamilies": ["X"]}),
            vec![
                "spec.ipFamilies[0]: Unsupported value: \"X\": supported values: \"IPv4\", \"IPv6\"",
                "spec.clusterIPs: Invalid value: [\"10.0.0.1\",\"10.0.0.2\",\"10.0.0.3\"]: may only hold up to 2 values",
                "spec.clusterIPs: Invalid value: [\"10.0.0.1\",\"10.0.0.2\",\"10.0.0.3\"]: may specify no more than one IP for each IP family",
            ],
        ),
        (
            json!({"clusterIPs": ["10.0.0.1"]}),
            vec![
                "spec.clusterIPs: Invalid value: [\"10.0.0.1\"]: must be empty when `clusterIP` is not specified",
            ],
        ),
        (
            json!({"clusterIP": "10.0.0.1", "ipFamilies": ["IPv6"]}),
            vec![
                "spec.clusterIPs[0]: Invalid value: \"10.0.0.1\": expected an IPv6 value as indicated by `ipFamilies[0]`",
            ],
        ),
    ];
    cases.into_iter().for_each(|(patch, expected)| refused(patch, &expected));
}

#[test]
fn changes() {
    let address = json!({"clusterIP": "10.0.0.1"});
    let fixed = "spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set";
    assert_eq!(
        updated("", "services", with_spec(address.clone()), json!({"spec": {"clusterIP": "10.0.0.2"}})),
        [fixed]
    );
    let external = json!({"spec": {"type": "ExternalName", "externalName": "a.b", "ports": null}});
    assert_eq!(updated("", "services", with_spec(address), external), [""; 0]);
    let dual = with_spec(
        json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"], "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack"}),
    );
    for (families, expected) in [
        (
            json!(["IPv6", "IPv4"]),
            vec![
                "spec.ipFamilies[0]: Invalid value: [\"IPv6\",\"IPv4\"]: may not change once set",
                "spec.ipFamilies[0]: Invalid value: [\"IPv6\",\"IPv4\"]: may not change once set",
                "spec.clusterIPs[0]: Invalid value: \"10.0.0.1\": expected an IPv6 value as indicated by `ipFamilies[0]`",
                "spec.clusterIPs[1]: Invalid value: \"fd00::1\": expected an IPv4 value as indicated by `ipFamilies[1]`",
            ],
        ),
        (
            json!(["IPv6"]),
            vec![
                "spec.ipFamilies[0]: Invalid value: [\"10.0.0.1\",\"fd00::1\"]: may not change once set",
                "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": must be set to 'SingleStack' when releasing the secondary ipFamily",
                "spec.clusterIPs[0]: Invalid value: \"10.0.0.1\": expected an IPv6 value as indicated by `ipFamilies[0]`",
            ],
        ),
    ] {
        let change = json!({"spec": {"ipFamilies": families}});
        assert_eq!(updated("", "services", dual.clone(), change), expected);
    }
    let balanced = with_spec(json!({"type": "LoadBalancer", "loadBalancerClass": "a/b"}));
    assert_eq!(
        updated("", "services", balanced.clone(), json!({"spec": {"loadBalancerClass": "a/c"}})),
        ["spec.loadBalancerClass: Invalid value: \"a/c\": may not change once set"]
    );
    assert_eq!(
        updated("", "services", balanced.clone(), json!({"spec": {"loadBalancerClass": null}})),
        ["spec.loadBalancerClass: Invalid value: \"null\": may not change once set"]
    );
    let (object, _) = patched(
        "",
        "services",
        "",
        &merge(
            stored("", "services", balanced),
            json!({"status": {"loadBalancer": {"ingress": [{"ip": "1.1.1.1"}]}}}),
        ),
        json!({"spec": {"type": "ClusterIP"}}),
    );
    assert_eq!(object["status"]["loadBalancer"], json!({}));
}

#[test]
fn reported_points_of_entry() {
    let old = stored("", "services", with_spec(json!({"type": "LoadBalancer"})));
    let report = |point: Value| json!({"status": {"loadBalancer": {"ingress": [point]}}});
    let (object, faults) = patched("", "services", "status", &old, report(json!({"ip": "1.2.3.4"})));
    assert_eq!(faults, [""; 0]);
    assert_eq!(object["status"]["loadBalancer"]["ingress"][0]["ipMode"], "VIP");
    for (point, expected) in [
        (
            json!({"hostname": "1.2.3.4", "ipMode": "VIP"}),
            vec![
                "status.loadBalancer.ingress[0].ipMode: Forbidden: may not be specified when `ip` is not set",
                "status.loadBalancer.ingress[0].hostname: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address",
            ],
        ),
        (
            json!({"ip": "1.2.3.4", "ipMode": "X"}),
            vec![
                "status.loadBalancer.ingress[0].ipMode: Unsupported value: \"X\": supported values: \"Proxy\", \"VIP\"",
            ],
        ),
    ] {
        assert_eq!(patched("", "services", "status", &old, report(point)).1, expected);
    }
    let plain = stored("", "services", with_spec(json!({})));
    assert_eq!(
        patched("", "services", "status", &plain, report(json!({"ip": "1.2.3.4"}))).1,
        ["status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is 'LoadBalancer'"]
    );
}

#[test]
fn hints() {
    let headless = json!({"clusterIP": "None", "externalIPs": ["1.1.1.1"], "sessionAffinity": "ClientIP"});
    assert_eq!(
        warned("", "services", with_spec(headless)),
        [
            "spec.externalIPs is ignored for headless services",
            "spec.SessionAffinity is ignored for headless services"
        ]
    );
    let padded = json!({"type": "LoadBalancer", "loadBalancerIP": "010.0.0.1", "loadBalancerSourceRanges": ["10.0.0.1/8"]});
    assert_eq!(
        warned("", "services", with_spec(padded)),
        [
            "spec.loadBalancerIP: non-standard IP address \"010.0.0.1\" will be considered invalid in a future Kubernetes release: use \"10.0.0.1\"",
            "spec.loadBalancerSourceRanges[0]: CIDR value \"10.0.0.1/8\" is ambiguous in this context (should be \"10.0.0.0/8\" or \"10.0.0.1/32\"?)",
        ]
    );
    let hinted = merge(
        with_spec(json!({"type": "ExternalName", "externalName": "a", "externalIPs": ["1.1.1.1"]})),
        json!({"metadata": {"annotations": {"service.kubernetes.io/topology-aware-hints": "auto"}}}),
    );
    assert_eq!(
        warned("", "services", hinted),
        [
            "annotation service.kubernetes.io/topology-aware-hints is deprecated, please use service.kubernetes.io/topology-mode instead",
            "spec.externalIPs is ignored when spec.type is \"ExternalName\"",
        ]
    );
}
