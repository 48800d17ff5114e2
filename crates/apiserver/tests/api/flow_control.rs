//! Who is served when: FlowSchemas and PriorityLevelConfigurations, and what is to be seen of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use amphipod_api::scheduling_review::Changes;
use amphipod_api::status::Status;
use amphipod_apiserver::ApiServer;
use amphipod_apiserver::seams::{Attributes, SchedulingExplainer, UserInfo};
use http::Request;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::{
    Answer, MAPS, Server, config_map, endless, endless_from, large_maps, pod, server, until, with_jane,
};

const FLOW: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";
const DEADLINE: Duration = Duration::from_secs(60);

/// A level of three of the 600 seats, which it neither lends nor borrows.
fn level(response: &Value) -> Value {
    json!({"metadata": {"name": "small"}, "spec": {"type": "Limited", "limited": {
        "nominalConcurrencyShares": 1, "lendablePercent": 0, "borrowingLimitPercent": 0,
        "limitResponse": response}}})
}

fn one_queue(length: u32) -> Value {
    json!({"type": "Queue", "queuing": {"queues": 1, "handSize": 1, "queueLengthLimit": length}})
}

/// Sends everything that this user asks to the small level.
fn schema(user: &str) -> Value {
    let everything = json!([{
        "subjects": [{"kind": "User", "user": {"name": user}}],
        "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"],
            "clusterScope": true}],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
    }]);
    json!({"metadata": {"name": "of-one"}, "spec": {"matchingPrecedence": 500, "rules": everything,
        "priorityLevelConfiguration": {"name": "small"}, "distinguisherMethod": {"type": "ByUser"}}})
}

fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
    answer.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// The ids of the schema and level that a request was taken for.
fn taken_for(answer: &Answer) -> (&str, &str) {
    (header(answer, "X-Kubernetes-PF-FlowSchema-UID"), header(answer, "X-Kubernetes-PF-PriorityLevel-UID"))
}

fn uid(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().expect("an id")
}

/// Waits until a request of this user is taken for this schema.
async fn until_taken_for(user: &Server, schema: &str) {
    let taken = async {
        while taken_for(&user.get("/version").await).0 != schema {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, taken).await.expect("the objects are followed");
}

/// The same without a request, where one would wait.
async fn until_meant(api: &ApiServer, user: &str, schema: &str) {
    let asked = Attributes {
        user: UserInfo::new(user, &["system:authenticated"]),
        verb: "get".into(),
        path: "/version".into(),
        ..Attributes::default()
    };
    until("the objects are followed", || api.flow_control.classify(&asked).name == schema).await;
}

/// Sends jane's requests to a small level that responds so; a server and jane.
async fn small(response: &Value) -> (Server, Server) {
    let server = with_jane().await;
    let jane = server.as_user("jane", &["system:authenticated"]);
    server.post(&format!("{FLOW}/prioritylevelconfigurations"), &level(response)).await.expect(201);
    let made = server.post(&format!("{FLOW}/flowschemas"), &schema("jane")).await.expect(201);
    until_taken_for(&jane, uid(&made)).await;
    (server, jane)
}

/// So many of jane's writes, which do not end.
async fn held(api: &Arc<ApiServer>, number: usize) -> Vec<JoinHandle<Answer>> {
    // Not by the load, which counts the server's own writes too.
    let begun = Arc::new(AtomicUsize::new(0));
    let writes = (0..number).map(|_| {
        let (api, begun) = (api.clone(), begun.clone());
        let count = move || {
            begun.fetch_add(1, Ordering::SeqCst);
        };
        tokio::spawn(async move { endless_from(&api, "jane", MAPS, count).await })
    });
    let writes = writes.collect();
    until("writes are served", || begun.load(Ordering::SeqCst) == number).await;
    writes
}

async fn until_waiting(api: &ApiServer, number: usize) {
    until("so many wait", || api.flow_control.load()[1].2 == number).await;
}

async fn text(server: &Server, path: &str) -> String {
    let answer = server.get(path).await;
    assert_eq!(answer.code, 200, "{path}");
    String::from_utf8_lossy(&answer.bytes).into_owned()
}

/// The cells of the rows of a table that begin so.
async fn rows(server: &Server, table: &str, begin: &[&str]) -> Vec<Vec<String>> {
    let table = text(server, &format!("/debug/api_priority_and_fairness/{table}")).await;
    let cells = |line: &str| line.split(',').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    table.lines().map(cells).filter(|row| begin.iter().zip(row).all(|(a, b)| a == b)).collect()
}

/// The value of a series, labels in the order of the text.
async fn series(server: &Server, name: &str) -> Option<f64> {
    let text = text(server, "/metrics").await;
    text.lines().find_map(|line| line.strip_prefix(&format!("{name} "))?.parse().ok())
}

#[tokio::test]
async fn answers_say_what_requests_were_taken_for() {
    let server = server().await;
    let path = |kind: &str, name: &str| format!("{FLOW}/{kind}/{name}");
    let joe = server.as_user("joe", &["system:authenticated"]);
    for (user, path_asked, schema, level) in [
        (&server, MAPS, "exempt", "exempt"),
        (&joe, "/healthz", "probes", "exempt"),
        (&joe, MAPS, "global-default", "global-default"),
        (&joe, "/nowhere", "global-default", "global-default"),
        (&server.as_user("system:kube-scheduler", &[]), MAPS, "kube-scheduler", "workload-high"),
        (&server.as_user("n", &["system:nodes"]), "/api/v1/nodes", "system-node-high", "node-high"),
        (&server.as_user("n", &["system:nodes"]), MAPS, "system-nodes", "system"),
        (
            &server.as_user("system:serviceaccount:a:b", &["system:serviceaccounts"]),
            &format!("{MAPS}?watch=1"),
            "service-accounts",
            "workload-low",
        ),
    ] {
        let answer = user
            .get(&format!("{path_asked}{}", if path_asked.contains('?') { "&timeoutSeconds=1" } else { "" }))
            .await;
        let schema_found = server.get(&path("flowschemas", schema)).await.expect(200);
        let level_found = server.get(&path("prioritylevelconfigurations", level)).await.expect(200);
        assert_eq!(taken_for(&answer), (uid(&schema_found), uid(&level_found)), "{path_asked} {schema}");
    }
}

#[tokio::test]
async fn objects_are_followed_and_told_where_they_point_to_nothing() {
    let (server, jane) = small(&json!({"type": "Reject"})).await;
    let own = format!("{FLOW}/flowschemas/of-one");
    let said = async |status: &str| {
        let said = async {
            loop {
                let schema = server.get(&own).await.expect(200);
                let conditions = schema["status"]["conditions"].as_array().cloned().unwrap_or_default();
                let found = conditions.into_iter().find(|one| one["type"] == "Dangling");
                if let Some(one) = found.filter(|one| one["status"] == status) {
                    return (one, schema);
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, said).await.expect("it is told")
    };
    let (found, schema) = said("False").await;
    assert_eq!((&found["reason"], &schema["status"]["conditions"][1]), (&json!("Found"), &Value::Null));
    let managers = schema["metadata"]["managedFields"].as_array().expect("managers").iter();
    let owner = managers.into_iter().find(|entry| entry["subresource"] == "status").expect("of its status");
    assert_eq!(owner["manager"], "api-priority-and-fairness-config-consumer-v1");
    server.delete(&format!("{FLOW}/prioritylevelconfigurations/small")).await.expect(200);
    let (missing, _) = said("True").await;
    assert_eq!(missing["reason"], "NotFound");
    assert_eq!(
        missing["message"],
        "This FlowSchema references the PriorityLevelConfiguration object named \"small\" but there is no such object"
    );
    let default = server.get(&format!("{FLOW}/flowschemas/global-default")).await.expect(200);
    until_taken_for(&jane, uid(&default)).await;
    server.post(&format!("{FLOW}/prioritylevelconfigurations"), &level(&one_queue(1))).await.expect(201);
    until_taken_for(&jane, uid(&schema)).await;
    said("False").await;
    // Which of two schemas is tried first can change, too.
    let first = json!({"spec": {"matchingPrecedence": 400}});
    server.merge(&format!("{FLOW}/flowschemas/global-default"), &first).await.expect(200);
    until_taken_for(&jane, uid(&default)).await;
    server.delete(&own).await.expect(200);
    let dispatched =
        "apiserver_flowcontrol_dispatched_requests_total{priority_level=\"small\",flow_schema=\"of-one\"}";
    let gone = async {
        while series(&server, dispatched).await.is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, gone).await.expect("series go with their schemas");
}

#[tokio::test]
async fn a_full_level_without_queues_sends_away() {
    let (server, jane) = small(&json!({"type": "Reject"})).await;
    let writes = held(&server.api, 3).await;
    let refused = jane.post(MAPS, &config_map("a")).await;
    assert_eq!((refused.code, header(&refused, "retry-after")), (429, "1"));
    assert_eq!(header(&refused, "content-type"), "text/plain; charset=utf-8");
    assert_eq!(&refused.bytes[..], b"Too many requests, please try again later.\n");
    let own = server.get(&format!("{FLOW}/flowschemas/of-one")).await.expect(200);
    assert_eq!(taken_for(&refused).0, uid(&own));
    // Reads and watches are its requests, too; the cluster's masters and others are not.
    assert_eq!([jane.get(MAPS).await.code, jane.get(&format!("{MAPS}?watch=1")).await.code], [429, 429]);
    let node = server.as_user("system:node:n", &["system:nodes", "system:authenticated"]);
    assert_eq!(node.post(MAPS, &config_map("n")).await.code, 403);
    server.post(MAPS, &config_map("b")).await.expect(201);
    let flow = "{priority_level=\"small\",flow_schema=\"of-one\"";
    let rejected =
        format!("apiserver_flowcontrol_rejected_requests_total{flow},reason=\"concurrency-limit\"}}");
    assert_eq!(series(&server, &rejected).await, Some(3.0));
    let executing = format!("apiserver_flowcontrol_current_executing_seats{flow}}}");
    assert_eq!(series(&server, &executing).await, Some(3.0));
    writes[0].abort();
    until("the seat is given back", || server.api.flow_control.load()[1].1 == 2).await;
    jane.post(MAPS, &config_map("c")).await.expect(201);
    assert_eq!(series(&server, &executing).await, Some(2.0));
}

#[tokio::test]
async fn who_waits_is_let_in_gives_up_or_is_sent_away_in_time() {
    let (server, jane) = small(&one_queue(2)).await;
    let api = &server.api;
    let writes = held(api, 3).await;
    let (map, given_up) = (config_map("a"), config_map("b"));
    let mut waiting = Box::pin(jane.post(MAPS, &map));
    let mut leaving = Box::pin(jane.post(MAPS, &given_up));
    tokio::select! {
        biased;
        _ = &mut waiting => panic!("there is no seat"),
        _ = &mut leaving => panic!("there is no seat"),
        () = until_waiting(api, 2) => {}
    }
    let full = jane.post(MAPS, &config_map("c")).await;
    assert_eq!(full.code, 429, "the queue is full");
    let shown = rows(&server, "dump_requests?includeRequestDetails=1", &["small", "of-one", "0", "1"]).await;
    assert_eq!(shown.len(), 1, "{shown:?}");
    assert_eq!(
        (shown[0][4].as_str(), &shown[0][6..10]),
        ("jane", &["1", "0", "0s", "0001-01-01T00:00:00Z"].map(str::to_owned)[..])
    );
    let details = ["jane", "create", MAPS, "default", "", "v1", "configmaps", ""];
    assert_eq!(shown[0][10..], details.map(str::to_owned));
    drop(leaving);
    until_waiting(api, 1).await;
    let late = jane.post(&format!("{MAPS}?timeout=200ms"), &config_map("d")).await;
    assert_eq!(late.code, 429, "a quarter of its time it may wait");
    let table = rows(&server, "dump_priority_levels", &["small"]).await;
    let expected = ["small", "1", "false", "false", "1", "3"].map(str::to_owned);
    assert_eq!((&table[0][..6], &table[0][7..]), (&expected[..], &["3", "1", "1"].map(str::to_owned)[..]));
    assert_eq!(rows(&server, "dump_queues", &["small", "0", "1", "3", "3"]).await.len(), 1);
    writes[0].abort();
    let answer = tokio::time::timeout(DEADLINE, waiting).await.expect("the next in line gets the seat");
    answer.expect(201);
    let flow = "{priority_level=\"small\",flow_schema=\"of-one\"";
    for reason in ["queue-full", "cancelled", "time-out"] {
        let name = format!("apiserver_flowcontrol_rejected_requests_total{flow},reason=\"{reason}\"}}");
        assert_eq!(series(&server, &name).await, Some(1.0), "{reason}");
    }
    let waits =
        format!("apiserver_flowcontrol_request_wait_duration_seconds_count{flow},execute=\"false\"}}");
    assert_eq!(series(&server, &waits).await, Some(3.0));
}

#[tokio::test]
async fn more_seats_are_used_as_soon_as_there_are() {
    let (server, jane) = small(&one_queue(5)).await;
    let _writes = held(&server.api, 3).await;
    let map = config_map("a");
    let waiting = jane.post(MAPS, &map);
    let raised = async {
        until_waiting(&server.api, 1).await;
        let shares = json!({"spec": {"limited": {"nominalConcurrencyShares": 2}}});
        server.merge(&format!("{FLOW}/prioritylevelconfigurations/small"), &shares).await.expect(200);
    };
    let (answer, ()) = tokio::join!(waiting, raised);
    answer.expect(201);
}

#[tokio::test]
async fn a_level_that_is_gone_lets_its_requests_end() {
    let (server, jane) = small(&one_queue(5)).await;
    let writes = held(&server.api, 3).await;
    let map = config_map("a");
    let waiting = jane.post(MAPS, &map);
    let removed = async {
        until_waiting(&server.api, 1).await;
        server.delete(&format!("{FLOW}/prioritylevelconfigurations/small")).await.expect(200);
        let default = server.get(&format!("{FLOW}/flowschemas/global-default")).await.expect(200);
        until_taken_for(&jane, uid(&default)).await;
        let quiescing = rows(&server, "dump_priority_levels", &["small", "1", "false", "true"]).await;
        assert_eq!(quiescing.len(), 1);
        writes[0].abort();
    };
    let (answer, ()) = tokio::join!(waiting, removed);
    answer.expect(201);
    writes.iter().for_each(JoinHandle::abort);
    until("all have ended", || server.api.flow_control.load()[1].1 == 0).await;
    server.api.flow_control.adjust();
    assert_eq!(rows(&server, "dump_priority_levels", &["small"]).await, Vec::<Vec<String>>::new());
}

#[tokio::test]
async fn figures_of_a_schema_last_as_long_as_it() {
    let (server, _) = small(&one_queue(5)).await;
    let executing =
        "apiserver_flowcontrol_current_executing_requests{priority_level=\"small\",flow_schema=\"of-one\"}";
    let writes = held(&server.api, 3).await;
    assert_eq!(series(&server, executing).await, Some(3.0));
    let mut other = schema("joe");
    other["metadata"]["name"] = json!("of-another");
    server.post(&format!("{FLOW}/flowschemas"), &other).await.expect(201);
    until_meant(&server.api, "joe", "of-another").await;
    assert_eq!(series(&server, executing).await, Some(3.0), "all schemas were read anew");
    writes[0].abort();
    until("one has ended", || server.api.flow_control.load()[1].1 == 2).await;
    assert_eq!(series(&server, executing).await, Some(2.0));

    let another = held(&server.api, 1).await;
    let api = server.api.clone();
    let waiting = tokio::spawn(async move { endless(&api, "jane", MAPS).await });
    until_waiting(&server.api, 1).await;
    server.delete(&format!("{FLOW}/flowschemas/of-one")).await.expect(200);
    until_meant(&server.api, "jane", "global-default").await;
    waiting.abort();
    until_waiting(&server.api, 0).await;
    writes.iter().chain(&another).for_each(JoinHandle::abort);
    until("all have ended", || server.api.flow_control.load()[1].1 == 0).await;
    let metrics = text(&server, "/metrics").await;
    assert!(metrics.contains("flow_schema=\"exempt\""), "those that are here have theirs");
    assert!(!metrics.contains("flow_schema=\"of-one\""), "its last requests do not bring them back");
}

#[tokio::test]
async fn watches_have_a_seat_until_they_have_begun() {
    let (server, jane) = small(&json!({"type": "Reject"})).await;
    large_maps(&server).await;
    let mut plain = jane.watch(&format!("{MAPS}?watch=1&resourceVersion=0")).await;
    drop(plain.next().await);
    let executing = async || rows(&server, "dump_requests", &["small"]).await.len();
    drop(plain);
    until("nothing is served", || server.api.flow_control.load()[0].1 == 0).await;
    let options = "watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan";
    let request = Request::builder().uri(format!("{MAPS}?{options}")).body(Vec::new()).expect("a request");
    let mut begun = jane.raw(request).await.into_body();
    assert_eq!(executing().await, 1, "none of its state is told");
    let mut told = Vec::new();
    while !String::from_utf8_lossy(&told).contains("initial-events-end") {
        let frame = tokio::time::timeout(DEADLINE, begun.frame()).await.expect("in time");
        told.extend(frame.expect("goes on").expect("unbroken").into_data().expect("data"));
    }
    until("its seat is given back", || server.api.flow_control.load()[0].1 == 0).await;
    assert_eq!(executing().await, 0);
    drop(begun);
}

#[tokio::test]
async fn what_a_list_reads_and_whom_a_write_is_told_to_takes_seats() {
    let server = with_jane().await;
    let jane = server.as_user("jane", &["system:authenticated"]);
    large_maps(&server).await;
    // The estimate is of what is there; this read waits until all is.
    server.get(MAPS).await.expect(200);
    for query in [
        "",
        "?watch=1",
        "?watch=1&resourceVersion=0",
        "?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan",
    ] {
        let request = Request::builder().uri(format!("{MAPS}{query}")).body(Vec::new()).expect("a request");
        let answer = jane.raw(request).await;
        let shown = rows(&server, "dump_requests", &["global-default", "global-default"]).await;
        // Four objects of a tenth of a megabyte and more, and one small one.
        assert_eq!((shown.len(), shown[0][6].as_str()), (1, "5"), "{query} {shown:?}");
        drop(answer);
        until("its seats are given back", || server.api.flow_control.load()[0].1 == 0).await;
    }
    let mut watches = Vec::new();
    for _ in 0..25 {
        watches.push(server.watch(&format!("{MAPS}?watch=1")).await);
    }
    let writes = held(&server.api, 1).await;
    let shown = rows(&server, "dump_requests", &["global-default", "global-default"]).await;
    assert_eq!(shown[0][6..9], ["1", "3", "500µs"].map(str::to_owned), "{shown:?}");
    drop(watches);
    writes.iter().for_each(JoinHandle::abort);
    until("all have ended", || server.api.flow_control.load()[1].1 == 0).await;
    let writes = held(&server.api, 1).await;
    let shown = rows(&server, "dump_requests", &["global-default", "global-default"]).await;
    assert_eq!(shown[0][6..9], ["1", "0", "0s"].map(str::to_owned), "{shown:?}");
    drop(writes);
}

/// Reads as jane to answer her, as the scheduler's explainer reads.
struct Reading(Server);

#[async_trait::async_trait]
impl SchedulingExplainer for Reading {
    async fn explain(&self, _: &[u8], _: &Changes) -> Result<Value, Status> {
        Ok(self.0.get(MAPS).await.expect(200)["kind"].clone())
    }
}

#[tokio::test]
async fn what_is_asked_to_answer_a_request_needs_no_seat() {
    let (server, jane) = small(&json!({"type": "Reject"})).await;
    let explainer: Arc<dyn SchedulingExplainer> =
        Arc::new(Reading(jane.as_user("jane", &["system:authenticated"])));
    server.api.explain_scheduling_by(Arc::downgrade(&explainer));
    let _writes = held(&server.api, 2).await;
    let (version, path) = ("scheduling.amphipod.dev/v1alpha1", "namespaces/default/podschedulingreviews");
    let review = json!({"apiVersion": version, "kind": "PodSchedulingReview", "spec": {"pod": pod("p")}});
    let answer = jane.post(&format!("/apis/{version}/{path}"), &review).await.expect(201);
    assert_eq!(answer["status"], "ConfigMapList");
}

#[tokio::test]
async fn figures_show_what_levels_have() {
    let (server, _) = small(&one_queue(5)).await;
    let level =
        |name: &str, level: &str| format!("apiserver_flowcontrol_{name}{{priority_level=\"{level}\"}}");
    for (name, value) in [
        ("nominal_limit_seats", 3.0),
        ("lower_limit_seats", 3.0),
        ("upper_limit_seats", 3.0),
        ("current_limit_seats", 3.0),
    ] {
        assert_eq!(series(&server, &level(name, "small")).await, Some(value), "{name}");
    }
    // Forty of 246 shares of 600 seats, of which it lends half; others of the server's levels alike.
    assert_eq!(series(&server, &level("nominal_limit_seats", "workload-high")).await, Some(98.0));
    assert_eq!(series(&server, &level("lower_limit_seats", "workload-high")).await, Some(49.0));
    assert_eq!(series(&server, &level("upper_limit_seats", "workload-high")).await, Some(698.0));
    assert_eq!(series(&server, &level("nominal_limit_seats", "exempt")).await, Some(0.0));
    let figures = [
        "demand_seats_high_watermark",
        "demand_seats_average",
        "demand_seats_stdev",
        "demand_seats_smoothed",
        "target_seats",
        "current_r",
    ];
    for name in figures {
        assert!(series(&server, &level(name, "exempt")).await.is_some(), "{name}");
    }
    assert!(
        series(&server, "apiserver_flowcontrol_seat_fair_frac").await.is_some_and(|fraction| fraction > 0.0)
    );
    let flow = "{priority_level=\"small\",flow_schema=\"of-one\"";
    for name in [
        "dispatched_requests_total",
        "request_queue_length_after_enqueue_count",
        "work_estimated_seats_count",
    ] {
        let value = series(&server, &format!("apiserver_flowcontrol_{name}{flow}}}")).await;
        assert!(value.is_some_and(|value| value > 0.0), "{name}");
    }
    for name in ["current_inqueue_requests", "current_inqueue_seats", "current_executing_requests"] {
        assert_eq!(
            series(&server, &format!("apiserver_flowcontrol_{name}{flow}}}")).await,
            Some(0.0),
            "{name}"
        );
    }
    let executions =
        format!("apiserver_flowcontrol_request_execution_seconds_count{flow},type=\"regular\"}}");
    assert!(series(&server, &executions).await.is_some_and(|value| value > 0.0));
    let unused = level("nominal_limit_seats", "leader-election");
    assert!(series(&server, &unused).await.is_some());
    assert_eq!(server.get("/debug/api_priority_and_fairness/dump_nothing").await.code, 404);
    let joe = server.as_user("joe", &["system:authenticated"]);
    assert_eq!(joe.get("/debug/api_priority_and_fairness/dump_queues").await.code, 403);
}
