//! The events at the end of a description.

use amphipod_api::duration::human_duration;
use amphipod_api::object;
use amphipod_client::Query;
use jiff::Timestamp;
use serde_json::Value;

use super::text::{Text, text};
use crate::Error;
use crate::context::Session;

pub async fn of(session: &Session, about: &Value) -> Result<Vec<Value>, Error> {
    let mut query = Query::default();
    let mut selector = format!("involvedObject.name={}", object::name(about));
    if !object::uid(about).is_empty() && object::kind(about) != "Node" {
        selector += &format!(",involvedObject.uid={}", object::uid(about));
    } else {
        selector += &format!(",involvedObject.kind={}", object::kind(about));
    }
    query.add("fieldSelector", &selector);
    let namespace = Some(object::namespace(about)).filter(|n| !n.is_empty());
    let kind = session.kind("events").await?;
    let mut list = session.get(&format!("{}{}", kind.path(namespace, ""), query.as_str())).await?;
    let mut events = list["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
    events.sort_by_key(|e| last(e).map(|t| t.as_nanosecond()));
    Ok(events)
}

fn stamp(event: &Value, name: &str) -> Option<Timestamp> {
    event[name].as_str()?.parse().ok()
}
fn last(event: &Value) -> Option<Timestamp> {
    stamp(event, "lastTimestamp")
        .or_else(|| stamp(event, "eventTime"))
        .or_else(|| stamp(event, "firstTimestamp"))
}

pub fn describe(out: &mut Text, events: &[Value], now: Timestamp) {
    if events.is_empty() {
        return out.field(0, "Events", "<none>");
    }
    out.line(0, "Events:");
    out.cells(1, &["Type", "Reason", "Age", "From", "Message"]);
    out.cells(1, &["----", "------", "----", "----", "-------"]);
    for event in events {
        let ago = |time: Option<Timestamp>| {
            time.map_or_else(|| "<unknown>".to_owned(), |t| human_duration((now - t).get_seconds().max(0)))
        };
        let count = event["count"].as_i64().unwrap_or(1);
        let age = if count > 1 {
            format!("{} (x{count} over {})", ago(last(event)), ago(stamp(event, "firstTimestamp")))
        } else {
            ago(last(event))
        };
        let from = [text(event, "/source/component"), text(event, "/reportingComponent")];
        let from = from.into_iter().find(|f| !f.is_empty()).unwrap_or("");
        out.cells(
            1,
            &[text(event, "/type"), text(event, "/reason"), &age, from, text(event, "/message").trim()],
        );
    }
}
