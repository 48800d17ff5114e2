//! What this controller wrote last. A job as the cache still shows it, without the indexes that the
//! last write counted as done, would have pods made for them again.

use std::collections::HashMap;

use amphipod_client::Resource;
use k8s_openapi::api::batch::v1::Job;
use parking_lot::Mutex;

/// Uid and resourceVersion, by key.
#[derive(Default)]
pub struct Written(Mutex<HashMap<String, (String, u64)>>);

impl Written {
    pub fn note(&self, job: &Job) {
        self.0.lock().insert(job.key(), (job.uid().to_owned(), version(job)));
    }

    /// Whether a job is older than what was written of it. Its cache then brings the newer one, and
    /// with it another sync.
    pub fn is_ahead_of(&self, job: &Job) -> bool {
        let written = self.0.lock();
        written.get(&job.key()).is_some_and(|(uid, newest)| uid == job.uid() && version(job) < *newest)
    }

    pub fn forget(&self, key: &str) {
        self.0.lock().remove(key);
    }
}

fn version(job: &Job) -> u64 {
    job.resource_version().parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn older_jobs_are_told_from_newer_ones() {
        let job = |uid: &str, version: &str| -> Job {
            serde_json::from_value(json!({"metadata": {"name": "j", "namespace": "n", "uid": uid,
                "resourceVersion": version}}))
            .unwrap()
        };
        let written = Written::default();
        assert!(!written.is_ahead_of(&job("a", "9")));
        written.note(&job("a", "10"));
        let cases = [(("a", "9"), true), (("a", "10"), false), (("a", "11"), false), (("b", "9"), false)];
        for ((uid, version), ahead) in cases {
            assert_eq!(written.is_ahead_of(&job(uid, version)), ahead, "{uid} {version}");
        }
        written.forget("n/j");
        assert!(!written.is_ahead_of(&job("a", "9")));
    }
}
