//! The walk that the tests called "should support ... API operations" have in common: discovery,
//! every verb of the resource, and those of its subresources.

use serde_json::{Value, json};

use crate::client::{Cluster, NAMESPACE, Objects, Patch, items, name, refused};

/// Whose `/status` leaves the metadata alone; that of the others takes annotations along.
const METADATA_KEPT: [&str; 3] =
    ["flowschemas", "prioritylevelconfigurations", "validatingadmissionpolicies"];

/// A resource and how its walk goes.
pub struct Walk {
    pub api_version: &'static str,
    pub plural: &'static str,
    pub namespaced: bool,
    /// What the three objects are made from; has a generateName, or a name that is numbered.
    pub template: Value,
    /// Selects the three objects and nothing else.
    pub selection: &'static str,
    /// Merged into `/status`, where that is served.
    pub status: Option<Value>,
}

impl Walk {
    fn objects(&self, cluster: &Cluster) -> Objects {
        if self.namespaced {
            cluster.of(self.api_version, self.plural, NAMESPACE)
        } else {
            cluster.all(self.api_version, self.plural)
        }
    }

    pub async fn run(&self, cluster: Cluster) {
        self.discovered(&cluster).await;
        let objects = self.objects(&cluster);
        let mut names = Vec::new();
        for number in 0..3 {
            let mut object = self.template.clone();
            if let Some(stem) = object["metadata"]["name"].as_str() {
                object["metadata"]["name"] = format!("{stem}{number}").into();
            }
            names.push(name(&objects.create(&object).await.unwrap()));
        }
        let subject = names[2].as_str();
        self.read_and_written(&cluster, &objects, subject).await;
        if let Some(status) = &self.status {
            self.status_is_served(&objects, subject, status).await;
        }
        objects.delete(subject).await.unwrap();
        refused(objects.get(subject).await, 404);
        assert_eq!(objects.list(self.selection).await.len(), 2);
        objects.delete_collection(self.selection).await.unwrap();
        assert_eq!(objects.list(self.selection).await.len(), 0);
    }

    async fn discovered(&self, cluster: &Cluster) {
        let (group, short) = self.api_version.split_once('/').unwrap_or(("", self.api_version));
        let mut root = format!("/api/{short}");
        if !group.is_empty() {
            root = format!("/apis/{group}/{short}");
            let has = |versions: &Value| {
                versions.as_array().is_some_and(|all| all.iter().any(|v| v["version"] == short))
            };
            let groups = cluster.get("/apis").await;
            let listed = groups["groups"].as_array().unwrap().iter().find(|g| g["name"] == group);
            assert!(has(&listed.expect("the group is listed")["versions"]));
            assert!(has(&cluster.get(&format!("/apis/{group}")).await["versions"]));
        }
        let resources = cluster.get(&root).await;
        let named =
            |plural: &str| resources["resources"].as_array().unwrap().iter().any(|r| r["name"] == plural);
        assert!(named(self.plural), "{resources}");
        let status = format!("{}/status", self.plural);
        assert!(self.status.is_none() || named(&status), "{resources}");
    }

    async fn read_and_written(&self, cluster: &Cluster, objects: &Objects, subject: &str) {
        let got = objects.get(subject).await.unwrap();
        let list = objects.list_whole(self.selection).await.unwrap();
        assert_eq!(items(&list).len(), 3, "{list}");
        let since = list["metadata"]["resourceVersion"].as_str().unwrap();
        let from_here = format!("resourceVersion={since}&{}", self.selection);
        let mut watch = objects.watch(&from_here).await;
        if self.namespaced {
            let everywhere = cluster.all(self.api_version, self.plural);
            assert_eq!(everywhere.list(self.selection).await.len(), 3);
            watch = everywhere.watch(&from_here).await;
        }
        let patch = json!({"metadata": {"annotations": {"patched": "true"}}});
        let patched = objects.patch(subject, &Patch::Merge(patch)).await.unwrap();
        assert_eq!(patched["metadata"]["annotations"]["patched"], "true");
        assert_eq!(patched["metadata"]["uid"], got["metadata"]["uid"]);
        let updated =
            objects.change(subject, |o| o["metadata"]["annotations"]["updated"] = "true".into()).await;
        assert_eq!(updated.unwrap()["metadata"]["annotations"]["updated"], "true");
        for annotation in ["patched", "updated"] {
            // Others may write too: the server itself says of a FlowSchema whether its level exists.
            watch.until("MODIFIED", |seen| seen["metadata"]["annotations"][annotation] == "true").await;
        }
    }

    /// `/status` can be read, patched and updated.
    async fn status_is_served(&self, objects: &Objects, subject: &str, status: &Value) {
        let whole = objects.get(subject).await.unwrap();
        let read = objects.get_sub(subject, "status").await.unwrap();
        assert_eq!((&read["kind"], &read["metadata"]["uid"]), (&whole["kind"], &whole["metadata"]["uid"]));
        let annotated = if METADATA_KEPT.contains(&self.plural) { Value::Null } else { "true".into() };
        let patch = json!({"metadata": {"annotations": {"patchedstatus": "true"}}, "status": status});
        let patched = objects.patch_sub(subject, "status", &Patch::Merge(patch)).await.unwrap();
        assert_eq!(patched["metadata"]["annotations"]["patchedstatus"], annotated, "{patched}");
        for (field, value) in status.as_object().unwrap() {
            assert!(contains(&patched["status"][field], value), "{field} of {patched}");
        }
        let updated = objects
            .change_sub(subject, "status", |o| o["metadata"]["annotations"]["updatedstatus"] = "true".into())
            .await
            .unwrap();
        assert_eq!(updated["metadata"]["annotations"]["updatedstatus"], annotated, "{updated}");
        assert_eq!(updated["spec"], whole["spec"]);
    }
}

/// Whether all of `wanted` is in `found`, which may have been given defaults.
fn contains(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => {
            wanted.iter().all(|(k, v)| found.get(k).is_some_and(|f| contains(f, v)))
        }
        (Value::Array(found), Value::Array(wanted)) => {
            found.len() == wanted.len() && found.iter().zip(wanted).all(|(f, w)| contains(f, w))
        }
        _ => found == wanted,
    }
}

/// Create, get, patch a label, list by it, delete; a second one: update a label, list by it,
/// delete the collection. The walk of the tests called "should run through the lifecycle of a ...".
pub async fn lifecycle(objects: &Objects, first: &Value, second: &Value) {
    let made = objects.create(first).await.unwrap();
    let first = name(&made);
    assert_eq!(name(&objects.get(&first).await.unwrap()), first);
    let label = json!({"metadata": {"labels": {first.as_str(): "patched"}}});
    let patched = objects.patch(&first, &Patch::Strategic(label)).await.unwrap();
    assert_eq!(patched["metadata"]["labels"][&first], "patched");
    let selection = format!("labelSelector={first}=patched");
    assert_eq!(objects.list(&selection).await.len(), 1);
    objects.delete(&first).await.unwrap();
    assert_eq!(objects.list(&selection).await.len(), 0);

    let second = name(&objects.create(second).await.unwrap());
    assert_eq!(name(&objects.get(&second).await.unwrap()), second);
    let label = |o: &mut Value| o["metadata"]["labels"] = json!({second.as_str(): "updated"});
    let updated = objects.change(&second, label).await.unwrap();
    assert_eq!(updated["metadata"]["labels"][&second], "updated");
    let selection = format!("labelSelector={second}=updated");
    assert_eq!(objects.list(&selection).await.len(), 1);
    objects.delete_collection(&selection).await.unwrap();
    assert_eq!(objects.list(&selection).await.len(), 0);
    refused(objects.get(&second).await, 404);
}
