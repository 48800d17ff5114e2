//! `port-forward`: local ports that lead into a pod.

use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};

use crate::Error;
use crate::context::Session;
use crate::error::usage;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// POD or TYPE/NAME
    resource: String,
    /// [LOCAL_PORT:]REMOTE_PORT...
    #[arg(required = true)]
    ports: Vec<String>,
    /// Addresses to listen on.
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1")]
    address: Vec<String>,
}

/// `8080`, `8080:80`, `:80`.
fn ports(text: &str) -> Result<(u16, String), Error> {
    let (local, remote) = text.split_once(':').unwrap_or((text, text));
    let fail = || {
        usage(format!("error parsing local port {local:?} of {text:?}: expected [LOCAL_PORT:]REMOTE_PORT"))
    };
    let local = if local.is_empty() { 0 } else { local.parse().map_err(|_| fail())? };
    Ok((local, remote.to_owned()))
}

pub async fn run(session: &Session, args: Args) -> Result<(), Error> {
    let pod = session.pod(&args.resource).await?;
    let service = match args.resource.split_once('/') {
        Some(("svc" | "service" | "services", name)) => {
            let kind = session.kind("services").await?;
            Some(session.get(&kind.path(Some(&session.namespace), name)).await?)
        }
        _ => None,
    };
    let kind = session.kind("pods").await?;
    let object = session.get(&kind.path(Some(&session.namespace), &pod)).await?;
    let mut tasks = Vec::new();
    for text in &args.ports {
        let (local, remote) = ports(text)?;
        let remote = remote_port(&remote, service.as_ref(), &object)?;
        for address in &args.address {
            let address = if address == "localhost" { "127.0.0.1" } else { address };
            let listener = TcpListener::bind((address, local))
                .await
                .map_err(|e| usage(format!("unable to listen on port {local}: {address}:{local}: {e}")))?;
            println!("Forwarding from {} -> {remote}", listener.local_addr()?);
            tasks.push(accept(session, listener, pod.clone(), remote));
        }
    }
    futures::future::try_join_all(tasks).await?;
    Ok(())
}

/// A service's port means its target port; names mean the container's named port.
fn remote_port(text: &str, service: Option<&Value>, pod: &Value) -> Result<u16, Error> {
    let unknown =
        || usage(format!("Pod {:?} does not have a named port {text:?}", amphipod_api::object::name(pod)));
    let mut wanted: Value = text.parse::<u16>().map_or_else(|_| text.into(), Into::into);
    if let Some(service) = service {
        let entries = service.pointer("/spec/ports").and_then(Value::as_array);
        let found = entries.into_iter().flatten().find(|p| p["port"] == wanted || p["name"] == wanted);
        let found = found.ok_or_else(|| usage(format!("Service does not have a service port {text}")))?;
        wanted = found.get("targetPort").unwrap_or(&found["port"]).clone();
    }
    if let Some(number) = wanted.as_u64() {
        return u16::try_from(number).map_err(|_| unknown());
    }
    let containers = pod.pointer("/spec/containers").and_then(Value::as_array).into_iter().flatten();
    let mut named = containers.flat_map(|c| c["ports"].as_array().into_iter().flatten());
    let found = named.find(|p| p["name"] == wanted).and_then(|p| p["containerPort"].as_u64());
    found.and_then(|number| u16::try_from(number).ok()).ok_or_else(unknown)
}

async fn accept(session: &Session, listener: TcpListener, pod: String, port: u16) -> Result<(), Error> {
    let local = listener.local_addr()?.port();
    loop {
        let (stream, _) = listener.accept().await?;
        println!("Handling connection for {local}");
        let api = kube::Api::<Pod>::namespaced(session.client.kube(), &session.namespace);
        let pod = pod.clone();
        tokio::spawn(async move {
            if let Err(error) = forward(&api, &pod, port, stream).await {
                eprintln!("error: lost connection to pod: {error}");
            }
        });
    }
}

async fn forward(api: &kube::Api<Pod>, pod: &str, port: u16, mut stream: TcpStream) -> Result<(), Error> {
    let mut forwarder = api.portforward(pod, &[port]).await?;
    let Some(mut remote) = forwarder.take_stream(port) else { return Ok(()) };
    let failure = forwarder.take_error(port);
    // Either side may hang up first; that is how connections end.
    let _ = tokio::io::copy_bidirectional(&mut stream, &mut remote).await;
    drop(remote);
    if let Some(failure) = failure
        && let Some(text) = failure.await
    {
        return Err(usage(text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ports_are_resolved() {
        assert_eq!(ports("8080:80").unwrap(), (8080, "80".to_owned()));
        assert_eq!(ports(":80").unwrap(), (0, "80".to_owned()));
        assert!(ports("x:80").is_err());
        let pod = json!({"spec": {"containers": [{"ports": [{"name": "web", "containerPort": 8080}]}]}});
        let service = json!({"spec": {"ports": [{"port": 80, "targetPort": "web"}]}});
        assert_eq!(remote_port("web", None, &pod).unwrap(), 8080);
        assert_eq!(remote_port("80", Some(&service), &pod).unwrap(), 8080);
        assert_eq!(remote_port("90", None, &pod).unwrap(), 90);
        assert!(remote_port("81", Some(&service), &pod).is_err());
    }
}
