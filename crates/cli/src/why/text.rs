//! The answer laid out: first in one sentence, then the nodes with what every plugin says of them, then
//! what would help, then the scores.

use std::collections::BTreeMap;
use std::fmt::Write;

use amphipod_api::quantity::Quantity;
use amphipod_api::scheduling_review::{Eviction, Group, PluginVerdict, Scored, Shortage, Status};

pub fn of(status: &Status) -> String {
    let mut out = String::new();
    line(&mut out, 0, &status.summary);
    for assumed in &status.assumed {
        line(&mut out, 0, &format!("assumed: {assumed}"));
    }
    pod(&mut out, status);
    waits(&mut out, status);
    if let Some(queue) = &status.queue {
        line(&mut out, 0, &format!("\nIn the queue: {}", queue.message));
    }
    nodes(&mut out, status);
    help(&mut out, status);
    scores(&mut out, &status.ranking);
    out
}

fn line(out: &mut String, depth: usize, text: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{:indent$}{text}", "", indent = 2 * depth);
}

fn pod(out: &mut String, status: &Status) {
    let requests = amounts(&status.pod.requests);
    let requests = if requests.is_empty() { "nothing".to_owned() } else { requests };
    let priority = status.pod.priority;
    line(out, 0, &format!("It asks for {requests}; its priority is {priority}."));
}

fn amounts(amounts: &BTreeMap<String, String>) -> String {
    let texts: Vec<String> =
        amounts.iter().map(|(name, amount)| format!("{} {name}", rounded(amount, true))).collect();
    texts.join(", ")
}

fn rounded(amount: &str, up: bool) -> String {
    Quantity::parse(amount).map_or_else(|_| amount.to_owned(), |quantity| quantity.readable(up))
}

fn waits(out: &mut String, status: &Status) {
    if status.waits_for.is_empty() {
        return;
    }
    line(out, 0, "\nIt waits for:");
    for wait in &status.waits_for {
        let name =
            if wait.name.is_empty() { wait.kind.clone() } else { format!("{} {}", wait.kind, wait.name) };
        line(out, 1, &format!("{name}: {}", wait.message));
    }
}

fn nodes(out: &mut String, status: &Status) {
    if status.groups.is_empty() {
        return;
    }
    line(out, 0, &format!("\nNodes: {}, of which {} would take it", status.nodes, status.feasible_nodes));
    for group in &status.groups {
        node_group(out, group);
    }
    if status.nodes_not_shown > 0 {
        line(out, 1, &format!("and {} nodes that fail in other ways", status.nodes_not_shown));
    }
}

fn node_group(out: &mut String, group: &Group) {
    let more = group.nodes.saturating_sub(group.names.len());
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let verdict = if group.fits { "would take it" } else { "would not" };
    line(out, 1, &format!("{}{more} {verdict}", group.names.join(", ")));
    let (passing, refusing): (Vec<&PluginVerdict>, Vec<&PluginVerdict>) =
        group.plugins.iter().partition(|plugin| plugin.passes);
    for plugin in &refusing {
        line(out, 2, &format!("no   {}: {}", plugin.name, why(plugin)));
    }
    if !passing.is_empty() {
        let names: Vec<&str> = passing.iter().map(|plugin| plugin.name.as_str()).collect();
        line(out, 2, &format!("yes  {}", names.join(", ")));
    }
}

fn why(plugin: &PluginVerdict) -> String {
    let reasons = plugin.reasons.join(", ");
    let behind: Vec<String> =
        plugin.details.iter().cloned().chain(plugin.shortages.iter().map(shortage)).collect();
    if behind.is_empty() { reasons } else { format!("{reasons} ({})", behind.join("; ")) }
}

fn shortage(shortage: &Shortage) -> String {
    let (least, most) = (rounded(&shortage.least_free, false), rounded(&shortage.most_free, false));
    let free = if least == most { least } else { format!("{least} to {most}") };
    let (asked, all) = (rounded(&shortage.requested, true), rounded(&shortage.most_allocatable, false));
    format!("{}: {asked} asked for, {free} free of {all}", shortage.resource)
}

fn help(out: &mut String, status: &Status) {
    let miss = status.nearest_miss.as_ref();
    if miss.is_none() && status.preemption.is_none() {
        return;
    }
    line(out, 0, "\nWhat would help:");
    if let Some(eviction) = &status.preemption {
        line(out, 1, &format!("the scheduler makes room on {}:", eviction.node_name));
        leaving(out, eviction);
    }
    let Some(miss) = miss else { return };
    line(out, 1, &miss.summary);
    let told = |eviction: &&Eviction| status.preemption.as_ref() != Some(*eviction);
    if let Some(without) = miss.without.as_ref().filter(told) {
        line(out, 1, &format!("on {} {}", without.node_name, without.summary));
        leaving(out, without);
    }
}

fn leaving(out: &mut String, eviction: &Eviction) {
    for pod in &eviction.pods {
        let requests = amounts(&pod.requests);
        let frees = if requests.is_empty() { String::new() } else { format!(", frees {requests}") };
        line(out, 2, &format!("{}/{} (priority {}{frees})", pod.namespace, pod.name, pod.priority));
    }
    if eviction.pods_not_shown > 0 {
        line(out, 2, &format!("and {} more", eviction.pods_not_shown));
    }
}

/// Plugins down, nodes across: what differs is seen in a row.
fn scores(out: &mut String, ranking: &[Scored]) {
    let Some(best) = ranking.first() else { return };
    line(out, 0, "\nScores, the best first:");
    let node = |scored: &Scored| {
        let here = if scored.current { " (here)" } else { "" };
        format!("{}. {}{here}", scored.rank, scored.node_name)
    };
    let mut rows = vec![row(String::new(), ranking.iter().map(node))];
    let mut silent = Vec::new();
    for (index, plugin) in best.plugins.iter().enumerate() {
        let marks =
            || ranking.iter().map(|scored| scored.plugins.get(index).map_or(0, |plugin| plugin.score));
        if marks().all(|mark| mark == 0) {
            silent.push(plugin.name.as_str());
            continue;
        }
        rows.push(row(format!("{} x {}", plugin.weight, plugin.name), marks().map(|mark| mark.to_string())));
    }
    rows.push(row("sum".to_owned(), ranking.iter().map(|scored| scored.score.to_string())));
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..=ranking.len()).map(width).collect();
    for row in &rows {
        let cells = row.iter().zip(&widths).enumerate();
        let cells: Vec<String> = cells
            .map(|(column, (cell, width))| match column {
                0 => format!("{cell:width$}"),
                _ => format!("{cell:>width$}"),
            })
            .collect();
        line(out, 1, &cells.join("  "));
    }
    if !silent.is_empty() {
        line(out, 1, &format!("nothing from {}", silent.join(", ")));
    }
}

fn row(head: String, cells: impl Iterator<Item = String>) -> Vec<String> {
    std::iter::once(head).chain(cells).collect()
}
