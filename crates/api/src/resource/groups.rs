//! The served groups, in the order of `/apis`, with the priorities their APIService objects carry.

use crate::scheduling_review;

/// A served API group; `versions` has the preferred one first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    pub name: &'static str,
    pub versions: &'static [GroupVersion],
    pub group_priority_minimum: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupVersion {
    pub version: &'static str,
    pub version_priority: i32,
}

impl Group {
    pub fn preferred(&self) -> &'static str {
        // Every row of the table below has at least one version; a test says so.
        self.versions.first().map_or("", |v| v.version)
    }
}

const fn v(version: &'static str, version_priority: i32) -> GroupVersion {
    GroupVersion { version, version_priority }
}

const fn group(name: &'static str, group_priority_minimum: i32, versions: &'static [GroupVersion]) -> Group {
    Group { name, versions, group_priority_minimum }
}

const V1: &[GroupVersion] = &[v("v1", 15)];

/// apiregistration has no APIService of its own; the aggregator lists it first.
const GROUPS: &[Group] = &[
    group("apiregistration.k8s.io", 20000, V1),
    group("", 18000, &[v("v1", 1)]),
    group("apps", 17800, V1),
    group("events.k8s.io", 17750, V1),
    group("authentication.k8s.io", 17700, V1),
    group("authorization.k8s.io", 17600, V1),
    group("autoscaling", 17500, &[v("v2", 30), v("v1", 15)]),
    group("batch", 17400, V1),
    group("certificates.k8s.io", 17300, V1),
    group("networking.k8s.io", 17200, V1),
    group("policy", 17100, V1),
    group("rbac.authorization.k8s.io", 17000, V1),
    group("storage.k8s.io", 16800, V1),
    group("admissionregistration.k8s.io", 16700, V1),
    group("apiextensions.k8s.io", 16700, V1),
    group("scheduling.k8s.io", 16600, V1),
    group("coordination.k8s.io", 16500, V1),
    group("node.k8s.io", 16300, V1),
    group("discovery.k8s.io", 16200, V1),
    group("flowcontrol.apiserver.k8s.io", 16100, &[v("v1", 21)]),
    group("resource.k8s.io", 15900, V1),
    // Amphipod's own, with what custom resources get.
    group(scheduling_review::GROUP, 1000, &[v(scheduling_review::VERSION, 100)]),
];

/// All built-in groups (the core group has the empty name), highest priority first.
pub fn groups() -> &'static [Group] {
    GROUPS
}
