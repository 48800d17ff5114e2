//! `/debug/api_priority_and_fairness/...`: what levels, queues and requests there are, as the tables of
//! kube-apiserver.

use std::fmt::Write;
use std::time::Duration;

use jiff::Timestamp;

use super::level::{Level, Requests, Ticket};
use super::seats::SeatTime;
use super::{Controlled, FlowControl};
use crate::flow_control::fair_queue::{Queue, Request};

const LEVELS: &str = "PriorityLevelName, ActiveQueues, IsIdle, IsQuiescing, WaitingRequests, ExecutingRequests, \
                      DispatchedRequests, RejectedRequests, TimedoutRequests, CancelledRequests";
const QUEUES: &str = "PriorityLevelName, Index, PendingRequests, ExecutingRequests, SeatsInUse, NextDispatchR, \
                      InitialSeatsSum, MaxSeatsSum, TotalWorkSum";
const REQUESTS: &str = "PriorityLevelName, FlowSchemaName, QueueIndex, RequestIndexInQueue, FlowDistingsher, \
                        ArriveTime, InitialSeats, FinalSeats, AdditionalLatency, StartTime";
const DETAILS: &str = "UserName, Verb, APIPath, Namespace, Name, APIVersion, Resource, SubResource";
/// What Go prints of a time that is none.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// Narrowest column but the last.
const LEAST_WIDTH: usize = 8;

/// A row of cells, padded to the width of their columns when it is printed.
type Row = Vec<String>;

#[derive(Debug)]
struct Table(Vec<Row>);

impl Table {
    fn new(header: &str) -> Self {
        Table(vec![header.split(", ").map(str::to_owned).collect()])
    }

    /// Cells end in a comma and stand below each other.
    fn print(&self) -> String {
        let columns = self.0.iter().map(Vec::len).max().unwrap_or(0);
        let cell = |row: &Row, column: usize| row.get(column).map_or(0, |cell| cell.chars().count());
        let widths: Vec<usize> = (0..columns)
            .map(|column| self.0.iter().map(|row| cell(row, column)).max().unwrap_or(0))
            .collect();
        let mut text = String::new();
        for row in &self.0 {
            for (column, cell) in row.iter().enumerate() {
                let is_last = column + 1 == row.len();
                let (comma, width) =
                    if is_last { ("", 0) } else { (",", (widths[column] + 2).max(LEAST_WIDTH)) };
                // Writing to a string cannot fail.
                let _ = write!(text, "{:width$}", format!("{cell}{comma}"));
            }
            text.push('\n');
        }
        text
    }
}

/// The last part of the path names the table; `None`: there is none of that name.
pub fn answer(flow_control: &FlowControl, table: &str, with_details: bool) -> Option<String> {
    let levels = flow_control.levels.lock();
    let levels = levels.by_name.values();
    let table = match table {
        "dump_priority_levels" => {
            let mut table = Table::new(LEVELS);
            table.0.extend(levels.map(level));
            table
        }
        "dump_queues" => {
            let mut table = Table::new(QUEUES);
            table.0.extend(levels.flat_map(|controlled| queues(&controlled.level)));
            table
        }
        "dump_requests" => {
            let header = if with_details { format!("{REQUESTS}, {DETAILS}") } else { REQUESTS.to_owned() };
            let mut table = Table::new(&header);
            // Levels count time from their own beginning.
            let now = (Timestamp::now(), flow_control.clock.now());
            table.0.extend(levels.flat_map(|controlled| requests(&controlled.level, now, with_details)));
            table
        }
        _ => return None,
    };
    Some(table.print())
}

fn level(controlled: &Controlled) -> Row {
    controlled.level.inspect(|requests| {
        let totals = requests.totals();
        let active = requests.queues().iter().filter(|queue| !queue.waiting.is_empty()).count();
        let mut row = vec![controlled.level.name.clone(), active.to_string()];
        row.extend([requests.is_idle(), controlled.is_quiescing].map(|is| is.to_string()));
        row.extend([requests.waiting(), requests.executing()].map(|number| number.to_string()));
        let totals = [totals.dispatched, totals.rejected, totals.timed_out, totals.cancelled];
        row.extend(totals.map(|number| number.to_string()));
        row
    })
}

/// As Go prints seat-seconds.
fn seat_seconds(time: SeatTime) -> String {
    format!("{:.8}ss", time as f64 / 1e9)
}

fn queues(level: &Level) -> Vec<Row> {
    level.inspect(|requests| {
        let unmade = Queue::default();
        let queues = requests.queues().iter().chain(std::iter::repeat_n(&unmade, requests.unmade()));
        let rows = queues.enumerate().map(|(index, queue)| {
            vec![
                level.name.clone(),
                index.to_string(),
                queue.waiting.len().to_string(),
                queue.executing.to_string(),
                queue.seats_in_use.to_string(),
                seat_seconds(queue.next_dispatch),
                queue.initial_seats_waiting.to_string(),
                queue.seats_waiting.to_string(),
                seat_seconds(queue.work_waiting),
            ]
        });
        rows.collect()
    })
}

/// Those that wait, queue by queue in their order, then those that execute.
fn requests(level: &Level, now: (Timestamp, Duration), with_details: bool) -> Vec<Row> {
    level.inspect(|requests: &Requests| {
        let mut rows = Vec::new();
        for queue in requests.queues() {
            let waiting = queue.waiting.iter().filter_map(|key| requests.request(*key));
            rows.extend(
                waiting.enumerate().map(|(place, one)| request(level, one, Some(place), now, with_details)),
            );
        }
        let executing = requests.requests().filter(|one| one.started.is_some());
        rows.extend(executing.map(|one| request(level, one, None, now, with_details)));
        rows
    })
}

fn request(
    level: &Level,
    request: &Request<Ticket>,
    place: Option<usize>,
    (now, elapsed): (Timestamp, Duration),
    with_details: bool,
) -> Row {
    let Ticket { schema, asked, .. } = &request.payload;
    let index = |index: Option<usize>| index.map_or_else(|| "-1".to_owned(), |index| index.to_string());
    let time = |at: Duration| (now - elapsed.saturating_sub(at)).to_string();
    let distinguisher = if request.queue.is_some() { schema.distinguish(asked) } else { "" };
    let mut row = vec![
        level.name.clone(),
        schema.name.clone(),
        index(request.queue),
        index(place),
        distinguisher.to_owned(),
        time(request.arrived),
        request.width.initial.to_string(),
        request.width.last.to_string(),
        go_duration(request.width.linger),
        request.started.map_or_else(|| NEVER.to_owned(), time),
    ];
    if with_details {
        let version = match asked.group.as_str() {
            "" => asked.version.clone(),
            group => format!("{group}/{}", asked.version),
        };
        let parts = [&asked.user.name, &asked.verb, &asked.path, &asked.namespace, &asked.name, &version];
        row.extend(parts.map(String::clone));
        row.extend([asked.resource.clone(), asked.subresource.clone()]);
    }
    row
}

/// As Go prints durations below a second; longer ones do not occur here.
fn go_duration(duration: Duration) -> String {
    match duration.as_nanos() {
        0 => "0s".to_owned(),
        nanos if nanos < 1_000_000 => format!("{}µs", nanos as f64 / 1e3),
        nanos if nanos < 1_000_000_000 => format!("{}ms", nanos as f64 / 1e6),
        nanos => format!("{}s", nanos as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other() {
        let mut table = Table::new("A, Bcd");
        table.0.push(vec!["long".into(), "x".into()]);
        assert_eq!(table.print(), "A,      Bcd\nlong,   x\n");
        assert_eq!(seat_seconds(-1_500_000_000), "-1.50000000ss");
    }

    #[test]
    fn durations_are_gos() {
        for (nanos, text) in [(0, "0s"), (500_000, "500µs"), (2_500_000, "2.5ms"), (1_500_000_000, "1.5s")] {
            assert_eq!(go_duration(Duration::from_nanos(nanos)), text);
        }
    }
}
