//! Volumes of the cloud and storage providers that were once part of Kubernetes. Their drivers are CSI
//! drivers now: where a node says that it has given up the old way, such a volume is one of the driver's,
//! under the driver's name for it and in the driver's zones.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume, Volume,
};

/// The annotation of a `CSINode` that lists what the node has given up.
pub const MIGRATED_PLUGINS: &str = "storage.alpha.kubernetes.io/migrated-plugins";
const ZONES: [&str; 2] = ["topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"];
const REGIONS: [&str; 2] = ["topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"];
/// Between the zones of a volume that is in several.
const ZONE_DELIMITER: &str = "__";
/// What a driver has to find out about a disk by itself.
const UNSPECIFIED: &str = "UNSPECIFIED";

struct Plugin {
    name: &'static str,
    driver: &'static str,
    /// The label nodes have of the driver's zones, if it has any.
    zone: Option<&'static str>,
}

/// Those whose volumes count for nodes. The drivers of files and of vSphere volumes have neither limits
/// nor zones of this kind.
static PLUGINS: [Plugin; 5] = [
    Plugin {
        name: "kubernetes.io/aws-ebs",
        driver: "ebs.csi.aws.com",
        zone: Some("topology.ebs.csi.aws.com/zone"),
    },
    Plugin {
        name: "kubernetes.io/gce-pd",
        driver: "pd.csi.storage.gke.io",
        zone: Some("topology.gke.io/zone"),
    },
    Plugin {
        name: "kubernetes.io/azure-disk",
        driver: "disk.csi.azure.com",
        zone: Some("topology.disk.csi.azure.com/zone"),
    },
    Plugin {
        name: "kubernetes.io/cinder",
        driver: "cinder.csi.openstack.org",
        zone: Some("topology.cinder.csi.openstack.org/zone"),
    },
    Plugin { name: "kubernetes.io/portworx-volume", driver: "pxd.portworx.com", zone: None },
];
const AWS: InTree = InTree(0);
const GCE: InTree = InTree(1);
const AZURE: InTree = InTree(2);
const CINDER: InTree = InTree(3);
const PORTWORX: InTree = InTree(4);

/// A plugin, by its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InTree(u8);

impl InTree {
    pub fn named(name: &str) -> Option<Self> {
        PLUGINS.iter().position(|plugin| plugin.name == name).map(|index| InTree(index as u8))
    }
    pub fn driver(self) -> &'static str {
        PLUGINS[usize::from(self.0)].driver
    }
    fn zone(self) -> Option<&'static str> {
        PLUGINS[usize::from(self.0)].zone
    }
}

/// What a node has given up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Migrated(u8);

impl Migrated {
    /// `plugins`: names with commas between.
    pub fn parse(plugins: &str) -> Self {
        let known = plugins.split(',').filter_map(InTree::named);
        Migrated(known.fold(0, |set, plugin| set | 1 << plugin.0))
    }
    pub fn has(self, plugin: InTree) -> bool {
        self.0 & 1 << plugin.0 != 0
    }
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// The plugin of a volume that is not CSI's already, and its driver's name for it.
pub fn of_volume(volume: &PersistentVolume) -> Option<(InTree, String)> {
    let spec = volume.spec.as_ref()?;
    if let Some(disk) = &spec.aws_elastic_block_store {
        return Some((AWS, aws(&disk.volume_id)?));
    }
    if let Some(disk) = &spec.gce_persistent_disk {
        return Some((GCE, gce(volume.metadata.labels.as_ref(), &disk.pd_name)?));
    }
    let azure = spec.azure_disk.as_ref().map(|disk| (AZURE, disk.disk_uri.clone()));
    let cinder = spec.cinder.as_ref().map(|disk| (CINDER, disk.volume_id.clone()));
    let portworx = spec.portworx_volume.as_ref().map(|disk| (PORTWORX, disk.volume_id.clone()));
    azure.or(cinder).or(portworx)
}

/// The same of a volume that a pod names itself.
pub fn of_pod(volume: &Volume) -> Option<(InTree, String)> {
    let aws = volume.aws_elastic_block_store.as_ref().map(|disk| Some((AWS, aws(&disk.volume_id)?)));
    let gce = volume.gce_persistent_disk.as_ref().map(|disk| Some((GCE, gce(None, &disk.pd_name)?)));
    let azure = volume.azure_disk.as_ref().map(|disk| Some((AZURE, disk.disk_uri.clone())));
    let cinder = volume.cinder.as_ref().map(|disk| Some((CINDER, disk.volume_id.clone())));
    let portworx = volume.portworx_volume.as_ref().map(|disk| Some((PORTWORX, disk.volume_id.clone())));
    aws.or(gce).or(azure).or(cinder).or(portworx)?
}

/// `aws://zone/vol-1` or `vol-1`
fn aws(id: &str) -> Option<String> {
    let Some(rest) = id.strip_prefix("aws://") else { return Some(id.to_owned()) };
    let (_, path) = rest.split_once('/')?;
    let name = path.trim_matches('/');
    (name.starts_with("vol-") && !name.contains('/')).then(|| name.to_owned())
}

/// A disk of several zones is one of their region.
fn gce(labels: Option<&BTreeMap<String, String>>, disk: &str) -> Option<String> {
    let label = ZONES.iter().rev().find_map(|key| labels?.get(*key).filter(|zones| !zones.is_empty()));
    let zones: Vec<&str> = label.map(|zones| zones.split(ZONE_DELIMITER).collect()).unwrap_or_default();
    let place = match zones[..] {
        [] => format!("zones/{UNSPECIFIED}"),
        [zone] => format!("zones/{zone}"),
        _ => format!("regions/{}", region(&zones)?),
    };
    Some(format!("projects/{UNSPECIFIED}/{place}/disks/{disk}"))
}

/// `us-east1` for zones like `us-east1-b`, if it is the same for all.
fn region<'a>(zones: &[&'a str]) -> Option<&'a str> {
    let of = |zone: &&'a str| {
        zone.rsplit_once('-').map(|(region, _)| region).filter(|r| r.matches('-').count() == 1)
    };
    let regions: Option<BTreeSet<&str>> = zones.iter().map(of).collect();
    let regions = regions.filter(|regions| regions.len() == 1)?;
    regions.into_iter().next()
}

/// The nodes that reach a volume, said in the driver's zones.
pub fn reach(plugin: InTree, volume: &PersistentVolume) -> Option<NodeSelector> {
    let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
    let mut required = affinity.and_then(|affinity| affinity.required.clone());
    let Some(zone) = plugin.zone() else { return required };
    let labels = volume.metadata.labels.as_ref();
    let by_terms = ZONES.iter().position(|key| about(&required, key).next().is_some());
    let by_label = || ZONES.iter().position(|key| labels.is_some_and(|labels| labels.contains_key(*key)));
    let generation = by_terms.or_else(by_label).unwrap_or(0);
    if names_some(&required, ZONES[generation]) {
        rename(&mut required, ZONES[generation], zone);
    } else if let Some(zones) = labels.and_then(|labels| labels.get(ZONES[generation])) {
        add(&mut required, zone, zones);
    }
    // Nodes have the region under its present name only.
    if names_some(&required, REGIONS[generation]) {
        rename(&mut required, REGIONS[generation], REGIONS[0]);
    }
    required
}

fn about<'a>(
    required: &'a Option<NodeSelector>,
    key: &'a str,
) -> impl Iterator<Item = &'a NodeSelectorRequirement> {
    let terms = required.iter().flat_map(|required| &required.node_selector_terms);
    terms.flat_map(|term| term.match_expressions.iter().flatten()).filter(move |r| r.key == key)
}
/// Whether values of a label are named, and not only that it be there.
fn names_some(required: &Option<NodeSelector>, key: &str) -> bool {
    about(required, key).any(|requirement| requirement.values.iter().flatten().next().is_some())
}

fn rename(required: &mut Option<NodeSelector>, old: &str, new: &str) {
    let terms = required.iter_mut().flat_map(|required| &mut required.node_selector_terms);
    let all = terms.flat_map(|term| term.match_expressions.iter_mut().flatten());
    all.filter(|requirement| requirement.key == old).for_each(|requirement| requirement.key = new.to_owned());
}

/// Asks for one of the zones in every term, and in one where there was none.
fn add(required: &mut Option<NodeSelector>, key: &str, zones: &str) {
    let zones: BTreeSet<&str> =
        zones.split(ZONE_DELIMITER).map(str::trim).filter(|zone| !zone.is_empty()).collect();
    if zones.is_empty() {
        return;
    }
    let terms = &mut required.get_or_insert_default().node_selector_terms;
    if terms.is_empty() {
        terms.push(NodeSelectorTerm::default());
    }
    for term in terms {
        term.match_expressions.get_or_insert_default().push(NodeSelectorRequirement {
            key: key.to_owned(),
            operator: "In".to_owned(),
            values: Some(zones.iter().map(|zone| (*zone).to_owned()).collect()),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn volume(labels: &Value, spec: &Value) -> PersistentVolume {
        serde_json::from_value(json!({"metadata": {"name": "v", "labels": labels}, "spec": spec})).unwrap()
    }

    #[test]
    fn drivers_names_for_disks() {
        let zone = |zones: &str| json!({"topology.kubernetes.io/zone": zones});
        let aws = |id: &str| json!({"awsElasticBlockStore": {"volumeID": id}});
        let gce = json!({"gcePersistentDisk": {"pdName": "d"}});
        let cases = [
            (json!({}), aws("vol-1"), Some("ebs.csi.aws.com vol-1")),
            (json!({}), aws("aws://eu-1a/vol-1"), Some("ebs.csi.aws.com vol-1")),
            (json!({}), aws("aws:///vol-1"), Some("ebs.csi.aws.com vol-1")),
            (json!({}), aws("aws://eu-1a/other"), None),
            (
                zone("us-east1-b"),
                gce.clone(),
                Some("pd.csi.storage.gke.io projects/UNSPECIFIED/zones/us-east1-b/disks/d"),
            ),
            (
                json!({"failure-domain.beta.kubernetes.io/zone": "us-east1-b__us-east1-c"}),
                gce.clone(),
                Some("pd.csi.storage.gke.io projects/UNSPECIFIED/regions/us-east1/disks/d"),
            ),
            (zone("us-east1-b__us-west1-c"), gce.clone(), None),
            (json!({}), gce, Some("pd.csi.storage.gke.io projects/UNSPECIFIED/zones/UNSPECIFIED/disks/d")),
            (
                json!({}),
                json!({"azureDisk": {"diskName": "n", "diskURI": "/u"}}),
                Some("disk.csi.azure.com /u"),
            ),
            (json!({}), json!({"cinder": {"volumeID": "c"}}), Some("cinder.csi.openstack.org c")),
            (json!({}), json!({"portworxVolume": {"volumeID": "p"}}), Some("pxd.portworx.com p")),
            (json!({}), json!({"csi": {"driver": "d", "volumeHandle": "h"}}), None),
            (json!({}), json!({"vsphereVolume": {"volumePath": "v"}}), None),
        ];
        for (labels, spec, expected) in cases {
            let found = of_volume(&volume(&labels, &spec));
            let found = found.map(|(plugin, handle)| format!("{} {handle}", plugin.driver()));
            assert_eq!(found.as_deref(), expected, "{labels} {spec}");
            let mut own = spec.clone();
            own["name"] = "v".into();
            let own = of_pod(&serde_json::from_value(own).unwrap());
            assert_eq!(own.is_some(), found.is_some() || labels == zone("us-east1-b__us-west1-c"), "{spec}");
        }
    }

    #[test]
    fn zones_are_the_drivers() {
        let term = |pairs: &[(&str, &str)]| {
            let all =
                pairs.iter().map(|(key, value)| json!({"key": key, "operator": "In", "values": [value]}));
            json!({"matchExpressions": all.collect::<Vec<_>>()})
        };
        let cases = [
            (json!({}), json!([]), json!([])),
            (
                json!({}),
                json!([term(&[(ZONES[0], "a"), ("x", "y")])]),
                json!([term(&[("topology.gke.io/zone", "a"), ("x", "y")])]),
            ),
            (
                json!({ZONES[0]: "b"}),
                json!([term(&[(ZONES[1], "a"), (REGIONS[1], "r")])]),
                json!([term(&[("topology.gke.io/zone", "a"), (REGIONS[0], "r")])]),
            ),
            (json!({ZONES[1]: "b"}), json!([]), json!([term(&[("topology.gke.io/zone", "b")])])),
            (
                json!({ZONES[0]: "b"}),
                json!([term(&[("x", "y")]), term(&[("x", "z")])]),
                json!([
                    term(&[("x", "y"), ("topology.gke.io/zone", "b")]),
                    term(&[("x", "z"), ("topology.gke.io/zone", "b")])
                ]),
            ),
        ];
        for (labels, terms, expected) in cases {
            let affinity = json!({"required": {"nodeSelectorTerms": terms}});
            let volume =
                volume(&labels, &json!({"gcePersistentDisk": {"pdName": "d"}, "nodeAffinity": affinity}));
            let reach = json!(reach(GCE, &volume).unwrap());
            assert_eq!(reach["nodeSelectorTerms"], expected, "{labels} {terms}");
        }
        let anywhere = json!([{"matchExpressions": [{"key": ZONES[0], "operator": "Exists"}]}]);
        let affinity = json!({"required": {"nodeSelectorTerms": anywhere}});
        let disk = json!({"gcePersistentDisk": {"pdName": "d"}, "nodeAffinity": affinity});
        let reached = json!(reach(GCE, &volume(&json!({ZONES[0]: "b"}), &disk)).unwrap());
        let asked = &reached["nodeSelectorTerms"][0]["matchExpressions"];
        assert_eq!((&asked[0]["key"], &asked[1]["key"]), (&json!(ZONES[0]), &json!("topology.gke.io/zone")));
        let portworx = volume(&json!({ZONES[0]: "b"}), &json!({"portworxVolume": {"volumeID": "p"}}));
        assert_eq!(reach(PORTWORX, &portworx), None);
    }

    #[test]
    fn what_a_node_has_given_up() {
        let migrated =
            Migrated::parse("kubernetes.io/aws-ebs,kubernetes.io/cinder,kubernetes.io/vsphere-volume");
        assert!(migrated.has(AWS) && migrated.has(CINDER) && !migrated.has(GCE));
        assert!(Migrated::parse("").is_empty());
    }
}
