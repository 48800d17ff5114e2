//! What happens to an object between authorization and storage. The plugins run in upstream's
//! order; each is a small type that looks only at the requests it cares for.
//!
//! Not here: PodSecurity, webhooks and policies in CEL.

mod audience;
mod certificates;
mod devices;
mod limits;
mod namespace;
mod node;
mod pod;
mod quota;
mod service_account;
mod storage;

use std::sync::Arc;

use amphipod_api::status::Status;
use async_trait::async_trait;
use serde_json::Value;

use crate::authz::escalation::EscalationCheck;
use crate::authz::rbac::Rbac;
use crate::metrics::{Plugin, PluginDurations, Step};
use crate::seams::{Admission, AdmissionRequest, Authorizer, Operation, QuotaLedger, Reader};

pub struct Chain {
    reader: Arc<dyn Reader>,
    authorizer: Arc<dyn Authorizer>,
    escalation: EscalationCheck,
    quotas: quota::Quotas,
    plugins: PluginDurations,
}

impl Chain {
    pub fn new(
        reader: Arc<dyn Reader>,
        ledger: Arc<dyn QuotaLedger>,
        authorizer: Arc<dyn Authorizer>,
        rbac: Arc<Rbac>,
        plugins: PluginDurations,
    ) -> Self {
        let escalation = EscalationCheck { rbac, authorizer: authorizer.clone() };
        Chain { reader, authorizer, escalation, quotas: quota::Quotas::new(ledger), plugins }
    }
}

#[async_trait]
impl Admission for Chain {
    async fn admit(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        let (reader, authorizer) = (self.reader.as_ref(), self.authorizer.as_ref());
        let timed = self.plugins.timed(Step::Admit, request.operation);
        timed.run(Plugin::NamespaceLifecycle, namespace::lifecycle(reader, request)).await?;
        timed.run(Plugin::LimitRanger, limits::apply_defaults(reader, request)).await?;
        timed.run(Plugin::ServiceAccount, service_account::admit(reader, request)).await?;
        timed.run(Plugin::NodeRestriction, node::restrict(reader, authorizer, request)).await?;
        timed.run(Plugin::TaintNodesByCondition, done(|| node::taint_new(request))).await?;
        timed.run(Plugin::Priority, pod::priority(reader, request)).await?;
        timed.run(Plugin::DefaultTolerationSeconds, done(|| pod::default_tolerations(request))).await?;
        timed.run(Plugin::RuntimeClass, pod::runtime_class(reader, request)).await?;
        timed.run(Plugin::PodTopologyLabels, pod::topology_labels(reader, request)).await?;
        certificates::identity(request);
        timed.run(Plugin::StorageObjectInUseProtection, done(|| storage::protect(request))).await?;
        timed.run(Plugin::DefaultStorageClass, storage::default_class(reader, request)).await?;
        timed.run(Plugin::DefaultIngressClass, storage::default_ingress_class(reader, request)).await
    }

    async fn validate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        let (reader, authorizer) = (self.reader.as_ref(), self.authorizer.as_ref());
        let timed = self.plugins.timed(Step::Validate, request.operation);
        timed.run(Plugin::LimitRanger, limits::check(reader, request)).await?;
        timed.run(Plugin::ServiceAccount, service_account::validate(reader, request)).await?;
        timed.run(Plugin::Priority, pod::one_default_priority(reader, request)).await?;
        timed.run(Plugin::PersistentVolumeClaimResize, storage::resize(reader, request)).await?;
        devices::admin_access(reader, request).await?;
        let about = certificates::plugin(request);
        timed.run(about, certificates::validate(authorizer, request)).await?;
        self.escalation.validate(request).await?;
        // Last: what is charged shall come.
        timed.run(Plugin::ResourceQuota, self.quotas.charge(reader, request)).await
    }
}

/// The work of a plugin that refuses nothing and waits for nothing.
async fn done(work: impl FnOnce()) -> Result<(), Status> {
    work();
    Ok(())
}

/// The request writes this resource itself, not one of its subresources.
fn on(request: &AdmissionRequest<'_>, group: &str, resource: &str) -> bool {
    let attributes = request.attributes;
    attributes.group == group && attributes.resource == resource && attributes.subresource.is_empty()
}
fn creates(request: &AdmissionRequest<'_>, group: &str, resource: &str) -> bool {
    request.operation == Operation::Create && on(request, group, resource)
}

/// `pods "x" is forbidden: why`
fn forbidden(request: &AdmissionRequest<'_>, why: &str) -> Status {
    let own = amphipod_api::object::name(&request.object);
    let name = if own.is_empty() { request.attributes.name.as_str() } else { own };
    Status::forbidden(&request.attributes.group, &request.attributes.resource, name, why)
}

async fn read(
    reader: &dyn Reader,
    group: &str,
    plural: &str,
    namespace: &str,
    name: &str,
) -> Result<Option<Arc<Value>>, Status> {
    let found = reader.get(group, plural, namespace, name).await?;
    found.map(|text| reader.value(&text)).transpose()
}

async fn read_all(
    reader: &dyn Reader,
    group: &str,
    plural: &str,
    namespace: &str,
) -> Result<Vec<Arc<Value>>, Status> {
    let listing = reader.list(group, plural, namespace).await?;
    listing.items.iter().map(|text| reader.value(text)).collect()
}

/// Null, absent or "".
fn blank(value: &Value) -> bool {
    value.as_str().unwrap_or("").is_empty()
}

/// The items of a list, none when it is no list.
fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use amphipod_api::resource;
    use serde_json::json;

    use super::*;
    use crate::config::Config;
    use crate::seams::{Attributes, UserInfo};
    use crate::testing::MemoryReader;

    fn chain(reader: &Arc<MemoryReader>) -> Arc<dyn Admission> {
        crate::policy::build(&Config::default(), reader.clone(), reader.clone(), PluginDurations::default())
            .expect("default keys work")
            .admission
    }

    async fn create(
        reader: &Arc<MemoryReader>,
        plural: &str,
        object: Value,
        user: &str,
    ) -> Result<Value, Status> {
        let row = resource::find("", "v1", plural).expect("a core resource");
        let attributes = Attributes {
            user: UserInfo::new(user, &["system:masters"]),
            verb: "create".into(),
            version: "v1".into(),
            resource: plural.into(),
            namespace: if row.namespaced { "n".into() } else { String::new() },
            resource_request: true,
            ..Attributes::default()
        };
        let mut request = AdmissionRequest {
            attributes: &attributes,
            operation: Operation::Create,
            resource: row,
            object,
            old: None,
            dry_run: false,
            warnings: Vec::new(),
        };
        let chain = chain(reader);
        chain.admit(&mut request).await?;
        chain.validate(&mut request).await?;
        Ok(request.object)
    }

    fn namespace(reader: &MemoryReader, extra: Value) {
        let mut object = json!({"metadata": {"name": "n"}});
        if let Some(at) = extra.as_str() {
            object["metadata"]["deletionTimestamp"] = at.into();
            object["status"] = json!({"phase": "Terminating"});
        }
        reader.put("", "namespaces", &object);
    }

    fn pod() -> Value {
        json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
    }

    #[tokio::test]
    async fn a_pod_gets_account_token_tolerations_and_priority() {
        let reader = Arc::new(MemoryReader::default());
        namespace(&reader, Value::Null);
        reader.put("", "serviceaccounts", &json!({"metadata": {"name": "default", "namespace": "n"}}));
        let made = create(&reader, "pods", pod(), "u").await.expect("admitted");
        assert_eq!(made["spec"]["serviceAccountName"], "default");
        assert_eq!(made["spec"]["priority"], 0);
        assert_eq!(made["spec"]["tolerations"].as_array().map(Vec::len), Some(2));
        let mount = &made["spec"]["containers"][0]["volumeMounts"][0];
        assert_eq!(mount["mountPath"], "/var/run/secrets/kubernetes.io/serviceaccount");
        let volume = &made["spec"]["volumes"][0];
        assert_eq!(volume["name"], mount["name"]);
        assert!(volume["name"].as_str().expect("a name").starts_with("kube-api-access-"));
        assert_eq!(volume["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"], 3607);
        let again = create(&reader, "pods", made.clone(), "u").await.expect("admitted");
        assert_eq!(again, made, "admitting twice changes nothing");
    }

    #[tokio::test]
    async fn namespaces_must_exist_and_live() {
        let reader = Arc::new(MemoryReader::default());
        let missing = create(&reader, "configmaps", json!({"metadata": {"name": "c"}}), "u").await;
        assert_eq!(missing.expect_err("no namespace").message, "namespaces \"n\" not found");
        namespace(&reader, "2026-01-01T00:00:00Z".into());
        let ending = create(&reader, "configmaps", json!({"metadata": {"name": "c"}}), "u").await;
        let status = ending.expect_err("terminating");
        assert_eq!(
            status.message,
            "configmaps \"c\" is forbidden: unable to create new content in namespace n because it is being terminated"
        );
        let causes = status.details.expect("details").causes;
        assert_eq!(causes[0].reason, "NamespaceTerminating");
    }

    #[tokio::test]
    async fn limits_fill_and_refuse() {
        let reader = Arc::new(MemoryReader::default());
        namespace(&reader, Value::Null);
        reader.put("", "serviceaccounts", &json!({"metadata": {"name": "default", "namespace": "n"}}));
        reader.put("", "limitranges", &json!({"metadata": {"name": "l", "namespace": "n"}, "spec": {"limits": [
            {"type": "Container", "max": {"cpu": "1"}, "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "100m"}}]}}));
        let made = create(&reader, "pods", pod(), "u").await.expect("admitted");
        let resources = &made["spec"]["containers"][0]["resources"];
        assert_eq!(resources, &json!({"limits": {"cpu": "500m"}, "requests": {"cpu": "100m"}}));
        let mut big = pod();
        big["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "2"}});
        let refused = create(&reader, "pods", big, "u").await.expect_err("too big");
        assert_eq!(
            refused.message,
            "pods \"p\" is forbidden: maximum cpu usage per Container is 1, but limit is 2"
        );
    }

    #[tokio::test]
    async fn new_nodes_wait() {
        let reader = Arc::new(MemoryReader::default());
        let made =
            create(&reader, "nodes", json!({"metadata": {"name": "one"}}), "u").await.expect("admitted");
        assert_eq!(
            made["spec"]["taints"],
            json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}])
        );
    }
}
