//! The series dashboards read.

use serde_json::json;

use crate::support::{MAPS, PODS, Server, config_map, pod, server};

/// The value of the sample with this name and all of these labels.
pub fn sample(text: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let line = text.lines().find(|line| {
        let is_series = line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        is_series && labels.iter().all(|label| line.contains(label))
    })?;
    line.rsplit_once(' ')?.1.parse().ok()
}

pub async fn scrape(server: &Server) -> String {
    let answer = server.get("/metrics").await;
    assert_eq!(answer.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    String::from_utf8(answer.bytes.to_vec()).expect("text")
}

#[tokio::test]
async fn requests_are_counted_by_what_they_are() {
    let server = server().await;
    server.post(MAPS, &config_map("a")).await.expect(201);
    server.post(&format!("{MAPS}?dryRun=All"), &config_map("b")).await.expect(201);
    server.get(MAPS).await.expect(200);
    server.get("/api/v1/configmaps").await.expect(200);
    server.get(&format!("{MAPS}/a")).await.expect(200);
    server.get(&format!("{MAPS}/none")).await.expect(404);
    server.merge(&format!("{MAPS}/a"), &json!({"data": {"k": "2"}})).await.expect(200);
    let apply = config_map("a").to_string();
    let path = format!("{MAPS}/a?fieldManager=m&force=true");
    server.with("PATCH", &path, "application/apply-patch+yaml", &apply).await.expect(200);
    server.get(&format!("{MAPS}?watch=1&timeoutSeconds=1")).await;
    server.post(PODS, &pod("p")).await.expect(201);
    server.get(&format!("{PODS}/p/log")).await;
    server.get("/livez").await;
    server.get("/nowhere").await;
    let text = scrape(&server).await;
    let maps = ["group=\"\"", "version=\"v1\"", "resource=\"configmaps\"", "component=\"apiserver\""];
    let count = |labels: &[&str]| sample(&text, "apiserver_request_total", &[&maps[..], labels].concat());
    for labels in [
        ["verb=\"POST\"", "dry_run=\"\"", "code=\"201\"", "scope=\"resource\""],
        ["verb=\"POST\"", "dry_run=\"All\"", "code=\"201\"", "scope=\"resource\""],
        ["verb=\"LIST\"", "dry_run=\"\"", "code=\"200\"", "scope=\"namespace\""],
        ["verb=\"LIST\"", "dry_run=\"\"", "code=\"200\"", "scope=\"cluster\""],
        ["verb=\"GET\"", "dry_run=\"\"", "code=\"200\"", "scope=\"resource\""],
        ["verb=\"GET\"", "dry_run=\"\"", "code=\"404\"", "scope=\"resource\""],
        ["verb=\"PATCH\"", "dry_run=\"\"", "code=\"200\"", "scope=\"resource\""],
        ["verb=\"APPLY\"", "dry_run=\"\"", "code=\"200\"", "scope=\"resource\""],
        ["verb=\"WATCH\"", "dry_run=\"\"", "code=\"200\"", "scope=\"namespace\""],
    ] {
        assert!(count(&labels) >= Some(1.0), "{labels:?}\n{text}");
    }
    let other = |labels: &[&str]| sample(&text, "apiserver_request_total", labels);
    assert_eq!(other(&["verb=\"GET\"", "resource=\"pods\"", "subresource=\"log\""]), Some(1.0));
    assert_eq!(other(&["verb=\"GET\"", "subresource=\"/livez\"", "scope=\"\""]), Some(1.0));
    assert!(!text.contains("nowhere"));
    let listing = ["verb=\"LIST\"", "resource=\"configmaps\"", "scope=\"namespace\""];
    assert_eq!(sample(&text, "apiserver_request_duration_seconds_count", &listing), Some(1.0));
    assert_eq!(sample(&text, "apiserver_request_sli_duration_seconds_count", &listing), Some(1.0));
    assert!(sample(&text, "apiserver_response_sizes_sum", &listing) > Some(100.0));
    assert_eq!(sample(&text, "apiserver_request_sli_duration_seconds_count", &["verb=\"WATCH\""]), None);
    assert!(sample(&text, "apiserver_watch_events_total", &["resource=\"configmaps\""]) >= Some(1.0));
    assert!(
        sample(&text, "apiserver_cache_list_returned_objects_total", &["resource=\"configmaps\""])
            >= Some(2.0)
    );
}

#[tokio::test]
async fn the_store_the_watches_and_the_process_are_measured() {
    let server = server().await;
    server.post(MAPS, &config_map("a")).await.expect(201);
    let mut watch = server.watch(&format!("{MAPS}?watch=1")).await;
    assert_eq!(watch.brief().await, "ADDED a");
    let text = scrape(&server).await;
    let watching = ["verb=\"WATCH\"", "resource=\"configmaps\""];
    assert_eq!(sample(&text, "apiserver_longrunning_requests", &watching), Some(1.0));
    assert_eq!(sample(&text, "apiserver_registered_watchers", &["resource=\"configmaps\""]), Some(1.0));
    drop(watch);
    server.delete(&format!("{MAPS}/a")).await.expect(200);
    let text = scrape(&server).await;
    assert_eq!(sample(&text, "apiserver_longrunning_requests", &watching), Some(0.0));
    for operation in ["operation=\"create\"", "operation=\"delete\""] {
        let labels = [operation, "resource=\"configmaps\""];
        assert!(sample(&text, "etcd_requests_total", &labels) >= Some(1.0), "{operation}");
        assert!(sample(&text, "etcd_request_duration_seconds_count", &labels) >= Some(1.0), "{operation}");
    }
    assert!(sample(&text, "apiserver_storage_objects", &["resource=\"configmaps\""]).is_some());
    let of_maps = |name: &str| sample(&text, name, &["group=\"\"", "resource=\"configmaps\""]);
    // Made and deleted.
    assert!(of_maps("apiserver_watch_cache_events_received_total") >= Some(2.0));
    // The server itself watches none of them, and the watch began after the first.
    let dispatched = of_maps("apiserver_watch_cache_events_dispatched_total");
    assert!(dispatched.is_some() && dispatched < of_maps("apiserver_watch_cache_events_received_total"));
    assert_eq!(of_maps("apiserver_watch_cache_initializations_total"), Some(1.0));
    assert!(of_maps("apiserver_watch_cache_resource_version") > Some(1.0));
    assert!(of_maps("watch_cache_capacity") > Some(1.0));
    for (name, labels) in [
        ("apiserver_storage_size_bytes", vec!["storage_cluster_id=\"etcd-0\""]),
        ("apiserver_current_inflight_requests", vec!["request_kind=\"mutating\""]),
        ("apiserver_current_inqueue_requests", vec!["request_kind=\"readOnly\""]),
    ] {
        assert!(sample(&text, name, &labels).is_some(), "{name}");
    }
    for name in
        ["process_resident_memory_bytes", "process_start_time_seconds", "process_open_fds", "process_max_fds"]
    {
        assert!(sample(&text, name, &[]) > Some(1.0), "{name}");
    }
    assert_eq!(sample(&text, "kubernetes_build_info", &["git_version=\"v1.35.0+amphipod\""]), Some(1.0));
    assert!(text.contains("# TYPE apiserver_request_total counter\n") && !text.contains("# EOF"));
}

#[tokio::test]
async fn one_text_format_is_spoken_to_those_who_may() {
    let server = server().await;
    // As Prometheus asks where nobody configured it.
    let asked =
        server.get_as("/metrics", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5").await;
    assert_eq!(asked.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let text = String::from_utf8_lossy(&asked.bytes);
    assert!(sample(&text, "authentication_attempts", &["result=\"success\""]).is_some());
    assert!(!text.contains("# EOF"));
    let nobody = server.as_user("nobody", &["system:authenticated"]);
    nobody.get("/metrics").await.refused(403, "Forbidden");
    nobody.get("/debug/pprof/").await.refused(403, "Forbidden");
    nobody.get("/debug/pprof/profile?seconds=1").await.refused(403, "Forbidden");
    for (path, word) in [("", "heap: "), ("/heap", "configmaps "), ("/tasks", "alive tasks ")] {
        let answer = server.get(&format!("/debug/pprof{path}")).await;
        assert!(answer.code == 200 && String::from_utf8_lossy(&answer.bytes).contains(word), "{path}");
    }
}

#[tokio::test]
async fn who_asks_and_whether_they_may_is_counted() {
    let server = server().await;
    let before = scrape(&server).await;
    let jane = server.as_user("jane@example.com", &["system:authenticated"]);
    jane.get(MAPS).await.refused(403, "Forbidden");
    server.post(MAPS, &config_map("a")).await.expect(201);
    server.post(MAPS, &json!({"metadata": {"name": "B"}})).await.refused(422, "Invalid");
    server.get("/api/v1/componentstatuses").await.expect(200);
    server.post("/api/v1/namespaces/none/configmaps", &config_map("a")).await.refused(404, "NotFound");
    let text = scrape(&server).await;
    let grown = |name: &str, labels: &[&str]| {
        sample(&text, name, labels).unwrap_or(0.0) - sample(&before, name, labels).unwrap_or(0.0)
    };
    for (name, labels) in [
        ("authentication_attempts", vec!["result=\"success\""]),
        ("authentication_duration_seconds_count", vec!["result=\"success\""]),
        ("authenticated_user_requests", vec!["username=\"email_id\""]),
        ("authenticated_user_requests", vec!["username=\"admin\""]),
        ("authorization_attempts_total", vec!["result=\"allowed\""]),
        ("authorization_attempts_total", vec!["result=\"no-opinion\""]),
        ("authorization_duration_seconds_count", vec!["result=\"no-opinion\""]),
        (
            "apiserver_admission_step_admission_duration_seconds_count",
            vec!["operation=\"CREATE\"", "rejected=\"false\"", "type=\"validate\""],
        ),
        (
            "apiserver_admission_controller_admission_duration_seconds_count",
            vec!["name=\"ResourceQuota\"", "operation=\"CREATE\"", "rejected=\"false\"", "type=\"validate\""],
        ),
        (
            "apiserver_admission_controller_admission_duration_seconds_count",
            vec![
                "name=\"NamespaceLifecycle\"",
                "operation=\"CREATE\"",
                "rejected=\"true\"",
                "type=\"admit\"",
            ],
        ),
        (
            "apiserver_requested_deprecated_apis",
            vec!["resource=\"componentstatuses\"", "removed_release=\"\""],
        ),
    ] {
        assert!(grown(name, &labels) >= 1.0, "{name} {labels:?}\n{text}");
    }
    assert!(text.contains("# TYPE authentication_attempts counter\n"));
    server.delete(&format!("{MAPS}/a")).await.expect(200);
    let text = scrape(&server).await;
    let asked = |name: &str| text.contains(&format!("name=\"{name}\",operation=\"DELETE\""));
    assert!(asked("NamespaceLifecycle") && !asked("LimitRanger"), "{text}");
    for (name, resource) in [
        ("apiserver_storage_objects", vec!["resource=\"clusterroles.rbac.authorization.k8s.io\""]),
        (
            "apiserver_resource_objects",
            vec!["group=\"rbac.authorization.k8s.io\"", "resource=\"clusterroles\""],
        ),
        ("apiserver_resource_objects", vec!["group=\"\"", "resource=\"configmaps\""]),
    ] {
        assert!(sample(&text, name, &resource) >= Some(1.0), "{name} {resource:?}");
    }
    assert_eq!(sample(&text, "kubernetes_build_info", &["major=\"1\"", "minor=\"35\""]), Some(1.0));
}

#[tokio::test]
async fn the_maintainer_takes_profiles() {
    let server = server().await;
    let path = "/debug/pprof/profile";
    server.get(&format!("{path}?seconds=301")).await.refused(400, "BadRequest");
    let first = format!("{path}?seconds=1");
    // The one that is asked for while the other is taken is refused.
    let (one, other) = tokio::join!(server.get(&first), server.get(&first));
    let (taken, refused) = if one.code == 200 { (one, other) } else { (other, one) };
    assert_eq!(refused.headers["retry-after"], "10");
    assert_eq!(refused.refused(429, "TooManyRequests"), "a profile is being taken already");
    assert_eq!(taken.code, 200);
    assert_eq!(taken.headers["content-type"], "application/octet-stream");
    assert_eq!(taken.headers["content-disposition"], "attachment; filename=\"profile\"");
    assert!(taken.bytes.starts_with(&[0x1f, 0x8b]), "gzip");
    // It ends with who asked for it.
    let request = http::Request::builder().uri("/debug/pprof/profile").body(Vec::new()).expect("a request");
    let mut waiting = Box::pin(server.raw(request));
    while futures::poll!(&mut waiting).is_pending() {
        let again = server.get(&format!("{path}?seconds=1")).await;
        if again.code == 429 {
            break;
        }
    }
    drop(waiting);
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    while server.get(&first).await.code != 200 {
        assert!(tokio::time::Instant::now() < deadline, "the profile of a client that is gone goes on");
    }
}
