//! Lifecycle hooks: commands, requests and pauses after a start and before a stop.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};

use crate::context::Context;
use crate::probes::http;

/// A request hook that hangs is given up; commands are bounded by the grace period alone.
const HTTP_TIMEOUT: Duration = Duration::from_secs(60);
/// Output of a failed hook shown to people.
const MAX_SHOWN: usize = 1024;

/// Runs a handler to its end. The error says what went wrong.
pub async fn run(
    context: &Context,
    container_id: &str,
    container: &Container,
    pod_ip: &str,
    handler: &LifecycleHandler,
) -> Result<(), String> {
    if let Some(exec) = &handler.exec {
        let command = exec.command.clone().unwrap_or_default();
        let shown = command.join(" ");
        let output = context.runtime.exec_sync(container_id, command, Duration::ZERO).await;
        return match output {
            Ok(output) if output.exit_code == 0 => Ok(()),
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.output[..output.output.len().min(MAX_SHOWN)])
                    .into_owned();
                Err(format!("command '{shown}' exited with {}: {text}", output.exit_code))
            }
            Err(error) => Err(error.to_string()),
        };
    }
    if let Some(action) = &handler.http_get {
        let url = http::url(action, container, pod_ip)?;
        let headers = action.http_headers.as_deref().unwrap_or_default();
        return http::get(&url, headers, HTTP_TIMEOUT).await.map(|_| ());
    }
    if let Some(sleep) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    if let Some(action) = &handler.tcp_socket {
        let host = action.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(pod_ip);
        return http::dial(host, http::port_number(&action.port, container)?).await.map(|_| ());
    }
    Err("invalid handler: no action".to_owned())
}
