//! What shared caches leave out. A pod takes 27 KB as a typed struct, most of it what only its
//! kubelet reads; without that it takes a quarter. Kinds that come in masses are cut down before
//! they are kept, so what this removes must never be written back: components write pods by patch.

use k8s_openapi::api::core::v1::{Container, Pod, Volume};
use k8s_openapi::api::networking::v1::IPAddress;

/// Keeps what scheduling, ownership, quotas, endpoints and disruption look at.
pub fn pod(pod: &mut Pod) {
    if let Some(spec) = &mut pod.spec {
        spec.containers.iter_mut().for_each(container);
        spec.init_containers.iter_mut().flatten().for_each(container);
        spec.ephemeral_containers = None;
        spec.security_context = None;
        spec.dns_config = None;
        spec.host_aliases = None;
        spec.image_pull_secrets = None;
        if let Some(volumes) = &mut spec.volumes {
            volumes.retain(is_storage);
            volumes.shrink_to_fit();
        }
    }
    if let Some(status) = &mut pod.status {
        let all = [
            &mut status.container_statuses,
            &mut status.init_container_statuses,
            &mut status.ephemeral_container_statuses,
        ];
        for status in all.into_iter().flatten().flatten() {
            status.volume_mounts = None;
            status.user = None;
        }
    }
}

/// Keeps what it says and for whom.
pub fn ip_address(address: &mut IPAddress) {
    address.metadata.managed_fields = None;
    address.metadata.annotations = None;
}

fn container(container: &mut Container) {
    container.args = None;
    container.command = None;
    container.env = None;
    container.env_from = None;
    container.lifecycle = None;
    container.liveness_probe = None;
    container.readiness_probe = None;
    container.startup_probe = None;
    container.security_context = None;
    container.volume_devices = None;
    container.volume_mounts = None;
}

/// Volumes that bind a pod to storage, and so to nodes; the others are made where the pod runs.
fn is_storage(volume: &Volume) -> bool {
    volume.config_map.is_none()
        && volume.downward_api.is_none()
        && volume.empty_dir.is_none()
        && volume.host_path.is_none()
        && volume.image.is_none()
        && volume.projected.is_none()
        && volume.secret.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_keeps_what_decisions_need() {
        let mut object: Pod = serde_json::from_value(json!({
            "metadata": {"name": "a", "labels": {"app": "a"}},
            "spec": {
                "nodeName": "n",
                "containers": [{"name": "c", "image": "i", "env": [{"name": "A", "value": "1"}],
                    "resources": {"requests": {"cpu": "1"}}, "ports": [{"containerPort": 80, "name": "http"}],
                    "volumeMounts": [{"name": "data", "mountPath": "/d"}],
                    "readinessProbe": {"tcpSocket": {"port": 80}}}],
                "volumes": [
                    {"name": "data", "persistentVolumeClaim": {"claimName": "c"}},
                    {"name": "kube-api-access", "projected": {"sources": []}}],
            },
            "status": {"containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": true,
                "restartCount": 0, "volumeMounts": [{"name": "data", "mountPath": "/d"}]}]},
        }))
        .unwrap();
        pod(&mut object);
        assert_eq!(
            serde_json::to_value(object).unwrap(),
            json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "a", "labels": {"app": "a"}},
                "spec": {
                    "nodeName": "n",
                    "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "1"}},
                        "ports": [{"containerPort": 80, "name": "http"}]}],
                    "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "c"}}],
                },
                "status": {"containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": true,
                    "restartCount": 0}]},
            })
        );
    }
}
