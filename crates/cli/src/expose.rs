//! `expose`: a service in front of a workload's pods.

use serde_json::{Value, json};

use crate::Error;
use crate::context::Session;
use crate::error::{nothing_named, usage};
use crate::output;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// TYPE NAME or TYPE/NAME
    resource: Vec<String>,
    /// The port that the service should serve on.
    #[arg(long)]
    port: Option<u16>,
    /// Name or number for the port on the container that the service should direct traffic to.
    #[arg(long)]
    target_port: Option<String>,
    /// The network protocol for the service.
    #[arg(long, default_value = "TCP")]
    protocol: String,
    /// ClusterIP, NodePort, LoadBalancer, or ExternalName.
    #[arg(long = "type", default_value = "ClusterIP")]
    kind: String,
    /// The name for the new service.
    #[arg(long)]
    name: Option<String>,
    /// `None` makes a headless service.
    #[arg(long)]
    cluster_ip: Option<String>,
}

pub async fn run(session: &Session, args: Args) -> Result<(), Error> {
    if args.resource.is_empty() {
        return Err(nothing_named());
    }
    let (kind, name) = session.one(&args.resource, "").await?;
    let object = session.get(&kind.path(Some(&session.namespace), &name)).await?;
    let service = service(&args, &kind.plural, &name, &object)?;
    let kind = session.kind("services").await?;
    session.create(&kind, "kubectl-expose", &service).await?;
    output::confirm(&kind, amphipod_api::object::name(&service), "exposed");
    Ok(())
}

fn selector(plural: &str, object: &Value) -> Result<Value, Error> {
    let found = match plural {
        "pods" => object.pointer("/metadata/labels"),
        "services" | "replicationcontrollers" => object.pointer("/spec/selector"),
        "deployments" | "replicasets" => object.pointer("/spec/selector/matchLabels"),
        _ => return Err(usage(format!("cannot expose a {plural}"))),
    };
    found.cloned().ok_or_else(|| usage("couldn't retrieve selectors via --selector flag or introspection"))
}

fn service(args: &Args, plural: &str, name: &str, object: &Value) -> Result<Value, Error> {
    let containers = match plural {
        "pods" => object.pointer("/spec/containers"),
        _ => object.pointer("/spec/template/spec/containers"),
    };
    let declared = containers
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .flat_map(|c| c["ports"].as_array().into_iter().flatten())
        .filter_map(|p| p["containerPort"].as_u64());
    let ports: Vec<u64> = args.port.map(u64::from).into_iter().collect();
    let ports = if ports.is_empty() { declared.collect() } else { ports };
    if ports.is_empty() {
        return Err(usage("couldn't find port via --port flag or introspection"));
    }
    let several = ports.len() > 1;
    let entries: Vec<Value> = ports
        .iter()
        .enumerate()
        .map(|(index, port)| {
            let target = args.target_port.clone().unwrap_or_else(|| port.to_string());
            let target = target.parse::<u16>().map_or(json!(target), |number| json!(number));
            let mut entry = json!({"port": port, "protocol": args.protocol, "targetPort": target});
            if several {
                entry["name"] = format!("port-{}", index + 1).into();
            }
            entry
        })
        .collect();
    let mut spec = json!({"ports": entries, "selector": selector(plural, object)?, "type": args.kind});
    if let Some(address) = &args.cluster_ip {
        spec["clusterIP"] = address.clone().into();
    }
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": args.name.as_deref().unwrap_or(name),
            "labels": object.pointer("/metadata/labels").cloned().unwrap_or(json!({})),
        },
        "spec": spec,
    }))
}
