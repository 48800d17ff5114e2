//! Counters, under the names that dashboards for CoreDNS look for.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use hickory_proto::op::ResponseCode;

#[derive(Debug, Default)]
pub struct Metrics {
    requests: AtomicU64,
    forwarded: AtomicU64,
    no_error: AtomicU64,
    no_name: AtomicU64,
    server_failure: AtomicU64,
    other: AtomicU64,
}

impl Metrics {
    pub(crate) fn request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }
    pub(crate) fn forward(&self) {
        self.forwarded.fetch_add(1, Ordering::Relaxed);
    }
    pub(crate) fn response(&self, code: ResponseCode) {
        let counter = match code {
            ResponseCode::NoError => &self.no_error,
            ResponseCode::NXDomain => &self.no_name,
            ResponseCode::ServFail => &self.server_failure,
            _ => &self.other,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// In the Prometheus text format.
    pub fn render(&self) -> String {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut text = String::new();
        let mut counter = |name: &str, help: &str, rows: &[(&str, u64)]| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter");
            for (labels, value) in rows {
                let _ = writeln!(text, "{name}{labels} {value}");
            }
        };
        counter("coredns_dns_requests_total", "Questions received.", &[("", get(&self.requests))]);
        counter("coredns_forward_requests_total", "Questions asked upstream.", &[("", get(&self.forwarded))]);
        let rows = [
            ("{rcode=\"NOERROR\"}", get(&self.no_error)),
            ("{rcode=\"NXDOMAIN\"}", get(&self.no_name)),
            ("{rcode=\"SERVFAIL\"}", get(&self.server_failure)),
            ("{rcode=\"other\"}", get(&self.other)),
        ];
        counter("coredns_dns_responses_total", "Answers given.", &rows);
        text
    }
}
