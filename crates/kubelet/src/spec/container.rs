//! One container, as the runtime is asked for it.

use amphipod_cri::v1::{
    ContainerConfig, ContainerMetadata, ImageSpec, KeyValue, LinuxContainerConfig, Mount, Signal,
};
use k8s_openapi::api::core::v1::{Container, Pod};

use super::env::Environment;
use super::expand::expand;
use super::labels;
use super::security::{self, ImageUser};
use crate::Error;
use crate::pod::resources::container_resources;

pub struct ContainerView<'a> {
    pub pod: &'a Pod,
    pub container: &'a Container,
    pub restart_count: u32,
    pub environment: &'a Environment,
    pub mounts: Vec<Mount>,
    /// What the image reference resolved to.
    pub image_ref: &'a str,
    pub image_user: &'a ImageUser,
    pub node_memory_bytes: i64,
    /// Id of the container whose processes an ephemeral one shares.
    pub target: Option<&'a str>,
}

pub fn container_config(view: ContainerView) -> Result<ContainerConfig, Error> {
    let container = view.container;
    let lookup = |name: &str| view.environment.get(name).cloned();
    let expanded = |list: &Option<Vec<String>>| list.iter().flatten().map(|t| expand(t, lookup)).collect();
    let envs = view.environment.variables.iter();
    let image = container.image.clone().unwrap_or_default();
    Ok(ContainerConfig {
        metadata: Some(ContainerMetadata { name: container.name.clone(), attempt: view.restart_count }),
        image: Some(ImageSpec {
            image: view.image_ref.to_owned(),
            user_specified_image: image,
            ..ImageSpec::default()
        }),
        command: expanded(&container.command),
        args: expanded(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: envs.map(|(key, value)| KeyValue { key: key.clone(), value: value.clone() }).collect(),
        mounts: view.mounts,
        labels: labels::container_labels(view.pod, container),
        annotations: labels::container_annotations(view.pod, container, view.restart_count),
        log_path: format!("{}/{}.log", container.name, view.restart_count),
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        tty: container.tty.unwrap_or(false),
        linux: Some(LinuxContainerConfig {
            resources: Some(container_resources(view.pod, container, view.node_memory_bytes)),
            security_context: Some(security::container_context(
                view.pod,
                container,
                view.image_user,
                view.target,
            )?),
        }),
        stop_signal: stop_signal(container) as i32,
        ..ContainerConfig::default()
    })
}

fn stop_signal(container: &Container) -> Signal {
    let name = container.lifecycle.as_ref().and_then(|l| l.stop_signal.as_deref());
    name.and_then(Signal::from_str_name).unwrap_or(Signal::RuntimeDefault)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::spec;
    use crate::pod::testing::pod;
    use serde_json::json;

    #[test]
    fn a_whole_container() {
        let pod = pod(
            json!({"containers": [{"name": "a", "image": "x:1", "command": ["$(A)", "$(B)"], "args": ["$$(A)"],
            "lifecycle": {"stopSignal": "SIGUSR1"}, "resources": {"limits": {"cpu": "250m", "memory": "1Mi"}}}]}),
        );
        let environment = Environment { variables: vec![("A".into(), "1".into())] };
        let config = container_config(ContainerView {
            pod: &pod,
            container: &spec(&pod).containers[0],
            restart_count: 2,
            environment: &environment,
            mounts: Vec::new(),
            image_ref: "sha256:1",
            image_user: &ImageUser::default(),
            node_memory_bytes: 1 << 30,
            target: None,
        })
        .unwrap();
        assert_eq!(config.command, ["1", "$(B)"]);
        assert_eq!(config.args, ["$(A)"]);
        assert_eq!(config.log_path, "a/2.log");
        assert_eq!(config.stop_signal, Signal::Sigusr1 as i32);
        assert_eq!(config.labels[labels::POD_UID], "u1");
        assert_eq!(config.annotations[labels::RESTART_COUNT], "2");
        let resources = config.linux.unwrap().resources.unwrap();
        assert_eq!((resources.cpu_quota, resources.memory_limit_in_bytes), (25_000, 1 << 20));
    }
}
