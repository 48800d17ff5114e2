//! The pod a job makes.

use std::collections::BTreeMap;

use amphipod_client::Resource;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod};

use super::view::{FINALIZER, INDEX};
use crate::{meta, pods};

const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";
/// Names made from a prefix keep this much of it.
const PREFIX_MAX: usize = 58;

pub fn pod(job: &Job, index: Option<i32>) -> Pod {
    let template = job.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let prefix = match index {
        None => pods::name_prefix(job.name()),
        Some(index) => indexed_prefix(job.name(), index),
    };
    let reference = meta::controller_reference(job);
    let mut pod = pods::from_template(&template, job.namespace(), &prefix, reference);
    let finalizers = pod.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|f| f == FINALIZER) {
        finalizers.push(FINALIZER.to_owned());
    }
    if let Some(index) = index {
        set_index(&mut pod, job.name(), index);
    }
    pod
}

/// `<job>-<index>-`, the job's name shortened where the index would be cut off.
fn indexed_prefix(job: &str, index: i32) -> String {
    let tail = format!("-{index}-");
    let keep = job.len().min(PREFIX_MAX.saturating_sub(tail.len()));
    format!("{}{tail}", job.get(..keep).unwrap_or(job))
}

fn set_index(pod: &mut Pod, job: &str, index: i32) {
    let text = index.to_string();
    for map in [&mut pod.metadata.annotations, &mut pod.metadata.labels] {
        map.get_or_insert_with(BTreeMap::new).insert(INDEX.to_owned(), text.clone());
    }
    let Some(spec) = &mut pod.spec else { return };
    spec.hostname = Some(format!("{job}-{index}"));
    spec.containers.iter_mut().for_each(add_variable);
    spec.init_containers.iter_mut().flatten().for_each(add_variable);
}

fn add_variable(container: &mut Container) {
    let variables = container.env.get_or_insert_default();
    if variables.iter().any(|v| v.name == INDEX_VARIABLE) {
        return;
    }
    variables.push(EnvVar {
        name: INDEX_VARIABLE.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: None,
                field_path: format!("metadata.labels['{INDEX}']"),
            }),
            ..EnvVarSource::default()
        }),
    });
}
