//! `describe`: an object for people, in kubectl's layout, with its events.

mod events;
mod node;
mod pod;
mod service;
mod text;
mod workload;

use amphipod_api::object;
use amphipod_client::Query;
use serde_json::Value;

use crate::Error;
use crate::context::Session;
use crate::discovery::Kind;
use crate::error::usage;
use text::Text;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// TYPE [NAME...] or TYPE/NAME...
    resources: Vec<String>,
    /// Selector (label query) to filter on.
    #[arg(short = 'l', long)]
    selector: Option<String>,
    /// Describe the objects of all namespaces.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
}

pub async fn run(session: &Session, args: Args) -> Result<(), Error> {
    if args.resources.is_empty() {
        return Err(usage(
            "You must specify the type of resource to describe. Use \"kubectl api-resources\" for a complete list \
             of supported resources.",
        ));
    }
    let namespace = (!args.all_namespaces).then_some(session.namespace.as_str());
    let mut first = true;
    for selected in session.select(&args.resources).await? {
        let mut objects = Vec::new();
        for name in &selected.names {
            objects.push(session.get(&selected.kind.path(namespace, name)).await?);
        }
        if selected.names.is_empty() {
            let mut query = Query::default();
            query.add_some("labelSelector", args.selector.as_deref());
            let mut list =
                session.get(&format!("{}{}", selected.kind.path(namespace, ""), query.as_str())).await?;
            objects.extend(list["items"].as_array_mut().into_iter().flat_map(std::mem::take));
        }
        for object in objects {
            if !first {
                println!("\n");
            }
            first = false;
            print!("{}", describe(session, &selected.kind, &object).await?);
        }
    }
    if first {
        eprintln!("No resources found in {} namespace.", session.namespace);
    }
    Ok(())
}

async fn describe(session: &Session, kind: &Kind, object: &Value) -> Result<String, Error> {
    let now = jiff::Timestamp::now();
    let mut out = Text::default();
    match kind.plural.as_str() {
        "pods" => pod::describe(&mut out, object, now),
        "nodes" => {
            let name = object::name(object);
            let lease = format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}");
            let lease = session.get(&lease).await.unwrap_or_default();
            node::describe(&mut out, (object, &lease), &pods_on(session, name).await?, now);
        }
        "services" => service::describe(&mut out, object, &slices_of(session, object).await?),
        "deployments" => workload::deployment(&mut out, object, &replica_sets_of(session, object).await?),
        "replicasets" | "replicationcontrollers" => workload::replica_set(&mut out, kind, object),
        "jobs" => workload::job(&mut out, object),
        _ => generic(&mut out, object),
    }
    events::describe(&mut out, &events::of(session, object).await?, now);
    Ok(out.finish())
}

async fn listed(
    session: &Session,
    word: &str,
    namespace: Option<&str>,
    query: Query,
) -> Result<Vec<Value>, Error> {
    let kind = session.kind(word).await?;
    let mut list = session.get(&format!("{}{}", kind.path(namespace, ""), query.as_str())).await?;
    Ok(list["items"].as_array_mut().map(std::mem::take).unwrap_or_default())
}

async fn pods_on(session: &Session, node: &str) -> Result<Vec<Value>, Error> {
    let mut query = Query::default();
    query.add("fieldSelector", &format!("spec.nodeName={node},status.phase!=Failed,status.phase!=Succeeded"));
    listed(session, "pods", None, query).await
}

async fn slices_of(session: &Session, service: &Value) -> Result<Vec<Value>, Error> {
    let mut query = Query::default();
    query.add("labelSelector", &format!("kubernetes.io/service-name={}", object::name(service)));
    listed(session, "endpointslices", Some(object::namespace(service)), query).await
}

async fn replica_sets_of(session: &Session, deployment: &Value) -> Result<Vec<Value>, Error> {
    let all =
        listed(session, "replicasets.apps", Some(object::namespace(deployment)), Query::default()).await?;
    let owned = |set: &Value| {
        let owners = set.pointer("/metadata/ownerReferences").and_then(Value::as_array);
        owners.into_iter().flatten().any(|o| o["uid"] == object::uid(deployment))
    };
    Ok(all.into_iter().filter(owned).collect())
}

/// Any other kind: metadata first, then every field as it stands, with spaced names.
fn generic(out: &mut Text, object: &Value) {
    text::name_and_namespace(out, object);
    text::labels_and_annotations(out, object);
    for (key, value) in object.as_object().into_iter().flatten() {
        match key.as_str() {
            "metadata" => {
                let mut rest = value.clone();
                let shown = ["name", "namespace", "labels", "annotations", "managedFields"];
                if let Some(map) = rest.as_object_mut() {
                    map.retain(|key, _| !shown.contains(&key.as_str()));
                }
                out.value("Metadata", &rest, 0);
            }
            "apiVersion" => out.field(0, "API Version", value.as_str().unwrap_or("")),
            key => out.value(&text::spaced(key), value, 0),
        }
    }
}
