//! What of a pod's volumes binds it to storage, and so to nodes.

use std::sync::Arc;

use amphipod_client::{CachedPod, Resource};
use k8s_openapi::api::core::v1::Volume;

use crate::storage::{Attachment, What, migration_of};
use crate::symbols::{Symbol, Symbols};

#[derive(Debug, Default, PartialEq, Eq)]
pub struct PodVolumes {
    /// In the order of the pod's volumes.
    pub claims: Box<[PodClaim]>,
    pub disks: Box<[Disk]>,
    /// Disks the pod names itself that drivers attach.
    pub inline: Box<[Attachment]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodClaim {
    /// `namespace/name` of the claim.
    pub key: Symbol,
    /// The claim is made for the pod, and has to be owned by it.
    pub ephemeral: bool,
}

/// A disk that a pod names itself, of the kinds that two pods cannot share on one node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Disk {
    identity: DiskIdentity,
    read_only: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum DiskIdentity {
    Gce(Symbol),
    Aws(Symbol),
    Iscsi(Symbol),
    Rbd { monitors: Box<[Symbol]>, pool: Symbol, image: Symbol },
}

impl Disk {
    fn parse(symbols: &mut Symbols, volume: &Volume) -> Option<Self> {
        let (identity, read_only) = if let Some(disk) = &volume.gce_persistent_disk {
            (DiskIdentity::Gce(symbols.intern(&disk.pd_name)), disk.read_only)
        } else if let Some(disk) = &volume.aws_elastic_block_store {
            // Not to be shared, read-only neither.
            (DiskIdentity::Aws(symbols.intern(&disk.volume_id)), None)
        } else if let Some(disk) = &volume.iscsi {
            (DiskIdentity::Iscsi(symbols.intern(&disk.iqn)), disk.read_only)
        } else {
            let disk = volume.rbd.as_ref()?;
            let monitors = disk.monitors.iter().map(|monitor| symbols.intern(monitor)).collect();
            let pool = symbols.intern(disk.pool.as_deref().unwrap_or("rbd"));
            let image = symbols.intern(&disk.image);
            (DiskIdentity::Rbd { monitors, pool, image }, disk.read_only)
        };
        Some(Disk { identity, read_only: read_only.unwrap_or(false) })
    }
    /// Whether two pods with these disks cannot be on one node.
    pub fn conflicts(&self, other: &Disk) -> bool {
        use DiskIdentity::Rbd;
        let same = match (&self.identity, &other.identity) {
            (
                Rbd { monitors, pool, image },
                Rbd { monitors: other_monitors, pool: other_pool, image: other_image },
            ) => {
                (pool, image) == (other_pool, other_image)
                    && monitors.iter().any(|monitor| other_monitors.contains(monitor))
            }
            (mine, theirs) => mine == theirs,
        };
        same && !(self.read_only && other.read_only)
    }
}

/// `None` for the many pods that have no such volumes.
pub fn volumes(symbols: &mut Symbols, pod: &CachedPod) -> Option<Arc<PodVolumes>> {
    let volumes = pod.spec.as_ref()?.volumes.as_deref()?;
    let (mut claims, mut disks, mut inline) = (Vec::new(), Vec::new(), Vec::new());
    for volume in volumes {
        if let Some(source) = &volume.persistent_volume_claim {
            let key = format!("{}/{}", pod.namespace(), source.claim_name);
            claims.push(PodClaim { key: symbols.intern(&key), ephemeral: false });
        } else if volume.ephemeral.is_some() {
            let key = format!("{}/{}-{}", pod.namespace(), pod.name(), volume.name);
            claims.push(PodClaim { key: symbols.intern(&key), ephemeral: true });
        } else {
            disks.extend(Disk::parse(symbols, volume));
            inline.extend(migration_of(volume).map(|(plugin, handle)| Attachment {
                driver: symbols.intern(plugin.driver()),
                what: What::Handle(symbols.intern(&handle)),
                plugin: Some(plugin),
            }));
        }
    }
    let some = !claims.is_empty() || !disks.is_empty() || !inline.is_empty();
    some.then(|| Arc::new(PodVolumes { claims: claims.into(), disks: disks.into(), inline: inline.into() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn of(volumes: Value) -> (Symbols, Option<Arc<PodVolumes>>) {
        let mut symbols = Symbols::default();
        let pod = json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": {"containers": [], "volumes": volumes}});
        let found = super::volumes(&mut symbols, &CachedPod::decode(pod.to_string().as_bytes()).unwrap());
        (symbols, found)
    }

    #[test]
    fn claims_by_name_and_those_made_for_the_pod() {
        let (symbols, volumes) = of(json!([
            {"name": "a", "persistentVolumeClaim": {"claimName": "data"}},
            {"name": "b", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}},
            {"name": "c", "emptyDir": {}},
        ]));
        let volumes = volumes.unwrap();
        let claims: Vec<_> = volumes.claims.iter().map(|c| (symbols.text(c.key), c.ephemeral)).collect();
        assert_eq!(claims, [("ns/data", false), ("ns/p-b", true)]);
        assert!(of(json!([{"name": "c", "emptyDir": {}}])).1.is_none());
    }

    #[test]
    fn disks_that_two_pods_cannot_share() {
        let gce = |name: &str, read_only: bool| json!({"gcePersistentDisk": {"pdName": name, "readOnly": read_only}});
        let aws = |read_only: bool| json!({"awsElasticBlockStore": {"volumeID": "a", "readOnly": read_only}});
        let iscsi = |iqn: &str, read_only: bool| json!({"iscsi": {"iqn": iqn, "lun": 0, "targetPortal": "", "readOnly": read_only}});
        let rbd = |monitors: &[&str], pool: &str, read_only: bool| json!({"rbd": {"monitors": monitors, "image": "i", "pool": pool, "readOnly": read_only}});
        let cases = [
            (gce("a", true), gce("a", true), false),
            (gce("a", true), gce("a", false), true),
            (gce("a", false), gce("b", false), false),
            (aws(true), aws(true), true),
            (iscsi("a", true), iscsi("a", true), false),
            (iscsi("a", false), iscsi("a", true), true),
            (iscsi("a", false), gce("a", false), false),
            (rbd(&["x", "y"], "p", false), rbd(&["y", "z"], "p", false), true),
            (rbd(&["x"], "p", false), rbd(&["z"], "p", false), false),
            (rbd(&["x"], "p", false), rbd(&["x"], "q", false), false),
            (rbd(&["x"], "p", true), rbd(&["x"], "p", true), false),
        ];
        for (mut one, mut other, expected) in cases {
            (one["name"], other["name"]) = ("one".into(), "other".into());
            let volumes = of(json!([one, other])).1.unwrap();
            assert_eq!(volumes.disks[0].conflicts(&volumes.disks[1]), expected, "{one} {other}");
        }
    }
}
