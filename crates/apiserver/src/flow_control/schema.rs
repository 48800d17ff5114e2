//! A FlowSchema as requests meet it: what it means, where it leads, what it counts in.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Response};

use super::config::{Distinguisher, EXEMPT, LevelSpec, SchemaSpec};
use super::dealer::flow_number;
use super::fair_queue::Refusal;
use super::level::Level;
use super::matching::Matcher;
use crate::metrics::{FlowControlFamilies, FlowMeters, Late};
use crate::seams::Attributes;

const SCHEMA_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

pub struct Schema {
    pub name: String,
    pub level: Arc<Level>,
    matcher: Matcher,
    distinguisher: Distinguisher,
    uid: HeaderValue,
    level_uid: HeaderValue,
    /// Shared with the schemas that this one follows under its name: their requests may still be here.
    pub meters: Arc<Meters>,
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schema")
            .field("name", &self.name)
            .field("level", &self.level.name)
            .finish_non_exhaustive()
    }
}

impl Schema {
    pub fn new(spec: SchemaSpec, level_spec: &LevelSpec, level: Arc<Level>, meters: Arc<Meters>) -> Self {
        let header = |uid: &str| HeaderValue::from_str(uid).unwrap_or(HeaderValue::from_static(""));
        Schema {
            uid: header(&spec.uid),
            level_uid: header(&level_spec.uid),
            name: spec.name,
            level,
            matcher: spec.matcher,
            distinguisher: spec.distinguisher,
            meters,
        }
    }

    pub fn matches(&self, asked: &Attributes) -> bool {
        self.matcher.matches(asked)
    }

    pub fn is_exempt(&self) -> bool {
        self.level.name == EXEMPT
    }

    /// What tells this request's flow from the others of the schema.
    pub fn distinguish<'a>(&self, asked: &'a Attributes) -> &'a str {
        match self.distinguisher {
            Distinguisher::Nothing => "",
            Distinguisher::User => &asked.user.name,
            Distinguisher::Namespace => &asked.namespace,
        }
    }

    /// The number of this request's flow. No queue of the exempt level asks for it.
    pub fn flow(&self, asked: &Attributes) -> u64 {
        if self.is_exempt() { 0 } else { flow_number(&self.name, self.distinguish(asked)) }
    }

    /// Tells a client what its request was taken for. By ids: names are for those who may read them.
    pub fn mark<B>(&self, answer: &mut Response<B>) {
        let headers = answer.headers_mut();
        headers.insert(LEVEL_UID, self.level_uid.clone());
        headers.insert(SCHEMA_UID, self.uid.clone());
    }

    /// What its requests are counted under: its level and its name.
    pub fn key(&self) -> (&str, &str) {
        (&self.level.name, &self.name)
    }
}

/// Counts what becomes of the requests of a schema, for as long as there is one of that name and level.
pub struct Meters {
    level: String,
    schema: String,
    families: Arc<FlowControlFamilies>,
    /// Made for the first request: most schemas of most clusters have none.
    series: Late<FlowMeters>,
}

impl Meters {
    pub fn new(level: &str, schema: &str, families: Arc<FlowControlFamilies>) -> Self {
        Meters { level: level.to_owned(), schema: schema.to_owned(), families, series: Late::default() }
    }

    /// `None`: the schema is gone, and what becomes of its last requests is counted nowhere.
    fn series(&self) -> Option<&FlowMeters> {
        self.series.get(|| self.families.meters(&self.level, &self.schema))
    }

    pub fn estimated(&self, seats: u32) {
        self.series().inspect(|series| series.estimated(seats));
    }
    pub fn concerned(&self, watches: u32) {
        self.series().inspect(|series| series.concerned(watches));
    }
    pub fn arrived(&self, queue_length: Option<usize>) {
        if let Some(length) = queue_length {
            self.series().inspect(|series| series.queued(length));
        }
    }
    pub fn dispatched(&self, waited: Duration) {
        let waited = (self.level != EXEMPT).then_some(waited);
        self.series().inspect(|series| series.dispatched(waited));
    }
    pub fn executed(&self, is_watch: bool, took: Duration) {
        self.series().inspect(|series| series.executed(is_watch, took));
    }
    pub fn refused(&self, why: Refusal, waited: Duration) {
        self.series().inspect(|series| series.refused(why, waited));
    }

    /// `None`: none of its requests has come yet.
    pub fn used(&self) -> Option<&FlowMeters> {
        self.series.made()
    }

    /// The schema is gone: its series go, and nothing brings them back.
    pub fn close(&self) {
        self.series.close().inspect(|series| series.close());
    }
}

/// How many of a schema's requests there are, and their seats.
#[derive(Clone, Copy, Debug, Default)]
pub struct Crowd {
    pub waiting: u32,
    pub waiting_seats: u32,
    pub executing: u32,
    pub executing_seats: u32,
}

impl Crowd {
    pub fn count(&mut self, is_executing: bool, seats: u32) {
        if is_executing {
            self.executing += 1;
            self.executing_seats += seats;
        } else {
            self.waiting += 1;
            self.waiting_seats += seats;
        }
    }
}
