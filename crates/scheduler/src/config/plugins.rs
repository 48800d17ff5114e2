//! Which plugins take part where: kube-scheduler's three layers (default plugins, those configured for
//! every point, those configured for one point) merged into rows of a profile.

use super::fields::Fields;
use crate::framework::{Enabled, Plugin, Point, Points};
use crate::plugins::TABLE;

/// Instead of a name: all that are there by default.
const ALL: &str = "*";

/// The points of the file, and what a plugin is called there when it does not exist.
pub const POINTS: [(Point, &str, &str); 12] = [
    (Point::PreEnqueue, "preEnqueue", "PreEnqueuePlugin"),
    (Point::QueueSort, "queueSort", "QueueSortPlugin"),
    (Point::PreFilter, "preFilter", "PreFilterPlugin"),
    (Point::Filter, "filter", "FilterPlugin"),
    (Point::PostFilter, "postFilter", "PostFilterPlugin"),
    (Point::PreScore, "preScore", "PreScorePlugin"),
    (Point::Score, "score", "ScorePlugin"),
    (Point::Reserve, "reserve", "ReservePlugin"),
    (Point::Permit, "permit", "PermitPlugin"),
    (Point::PreBind, "preBind", "PreBindPlugin"),
    (Point::Bind, "bind", "BindPlugin"),
    (Point::PostBind, "postBind", "PostBindPlugin"),
];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PluginSet {
    /// Names and weights; a weight of zero is none.
    pub enabled: Vec<(String, i32)>,
    pub disabled: Vec<String>,
}

impl PluginSet {
    fn read(fields: &mut Fields) -> Self {
        let mut plugins = |name| {
            fields.objects(name, |fields| (fields.text("name"), fields.int32("weight").unwrap_or_default()))
        };
        let (enabled, disabled) = (plugins("enabled"), plugins("disabled"));
        PluginSet { enabled, disabled: disabled.into_iter().map(|(name, _)| name).collect() }
    }
    fn enables(&self, name: &str) -> bool {
        self.enabled.iter().any(|(enabled, _)| enabled == name)
    }
    fn disables(&self, name: &str) -> bool {
        self.disabled.iter().any(|disabled| disabled == name)
    }
}

#[derive(Clone, Debug)]
pub struct Plugins {
    /// In the order of [`POINTS`].
    sets: Vec<PluginSet>,
    multi_point: PluginSet,
}

/// A plugin cannot take part as the file wants it to.
#[derive(Debug, PartialEq, Eq)]
pub struct Misplaced {
    /// The field below `plugins`; empty where it is the whole.
    pub field: &'static str,
    pub why: String,
}

impl Plugins {
    pub fn read(fields: &mut Fields) -> Self {
        let sets = POINTS.map(|(_, name, _)| fields.object_or_empty(name, PluginSet::read)).into();
        Plugins { sets, multi_point: fields.object_or_empty("multiPoint", PluginSet::read) }
    }

    pub fn at(&self, point: Point) -> &PluginSet {
        let index = POINTS.iter().position(|(known, ..)| *known == point);
        index.map_or(&self.multi_point, |index| &self.sets[index])
    }
    pub fn points(&self) -> impl Iterator<Item = (&'static str, &PluginSet)> {
        POINTS.iter().map(|(_, name, _)| *name).zip(&self.sets)
    }

    /// What takes part at every point it has, the default plugins among them.
    pub fn everywhere(&self) -> PluginSet {
        PluginSet { enabled: everywhere(&self.multi_point), disabled: self.multi_point.disabled.clone() }
    }

    /// The rows of a profile.
    pub fn enabled(&self, scheduler_name: &str) -> Result<Vec<Enabled>, Misplaced> {
        let everywhere = everywhere(&self.multi_point);
        let mut rows: Vec<Enabled> = Vec::new();
        // The order of filters decides whose reason is told; that of the others decides nothing.
        let first = |(point, ..): &(Point, _, _)| *point != Point::Filter;
        let mut points = POINTS;
        points.sort_by_key(first);
        for (point, field, kind) in points {
            for plugin in expanded(self.at(point), &everywhere, point, field, kind)? {
                let weight = self.weight(plugin.name, &everywhere);
                add(&mut rows, plugin, point, weight);
            }
        }
        check_counts(&rows, scheduler_name)?;
        Ok(rows)
    }

    /// The weight given for scores goes before that given for every point.
    fn weight(&self, name: &str, everywhere: &[(String, i32)]) -> i64 {
        let mut given = self.at(Point::Score).enabled.iter().chain(everywhere);
        match given.find(|(given, _)| given == name) {
            Some((_, weight)) if *weight != 0 => i64::from(*weight),
            _ => 1,
        }
    }
}

fn add(rows: &mut Vec<Enabled>, plugin: &'static Plugin, point: Point, weight: i64) {
    let row = match rows.iter().position(|row| row.plugin.name == plugin.name) {
        Some(row) => row,
        None => {
            rows.push(Enabled::new(plugin, Points::default(), weight));
            rows.len() - 1
        }
    };
    let points = &mut rows[row].points;
    *points = points.with(point);
    // What a plugin makes of its scores is not configured apart.
    if point == Point::Score && plugin.points.has(Point::NormalizeScore) {
        *points = points.with(Point::NormalizeScore);
    }
}

fn check_counts(rows: &[Enabled], scheduler_name: &str) -> Result<(), Misplaced> {
    let count = |point: Point| rows.iter().filter(|row| row.points.has(point)).count();
    let profile = format!("for profile with scheduler name {scheduler_name:?}");
    let why = match (count(Point::QueueSort), count(Point::Bind)) {
        (1, 0) => format!("at least one bind plugin is needed {profile}"),
        (1, _) => return Ok(()),
        (sorting, _) => format!("only one queue sort plugin required {profile}, but got {sorting}"),
    };
    Err(Misplaced { field: "", why })
}

fn plugin(name: &str) -> Option<&'static Plugin> {
    TABLE.iter().find(|plugin| plugin.name == name)
}

/// What takes part at every point it has: the default plugins in their order, those configured anew in
/// place, and further ones behind them.
fn everywhere(configured: &PluginSet) -> Vec<(String, i32)> {
    let of = |plugin: &Plugin| (plugin.name.to_owned(), i32::try_from(plugin.weight).unwrap_or(i32::MAX));
    let keeps = |plugin: &&Plugin| !configured.disables(ALL) && !configured.disables(plugin.name);
    let mut merged: Vec<(String, i32)> = TABLE.iter().filter(keeps).map(of).collect();
    let defaults = merged.len();
    for (index, (name, weight)) in configured.enabled.iter().enumerate() {
        // Of several with one name the last stands in for the default; the others are refused later.
        let is_last = !configured.enabled[index + 1..].iter().any(|(later, _)| later == name);
        match merged[..defaults].iter_mut().find(|(known, _)| known == name) {
            Some(known) if is_last => known.1 = *weight,
            _ => merged.push((name.clone(), *weight)),
        }
    }
    merged
}

/// The plugins at one point, in order: those of the point's own that also come from every point, those
/// from every point alone, and the rest of the point's own.
fn expanded(
    own: &PluginSet,
    everywhere: &[(String, i32)],
    point: Point,
    field: &'static str,
    kind: &str,
) -> Result<Vec<&'static Plugin>, Misplaced> {
    let fault = |why: String| Misplaced { field, why };
    let missing = |name: &str| fault(format!("{kind} {name:?} does not exist"));
    let twice = |name: &str| fault(format!("plugin {name:?} already registered as {kind:?}"));
    let mut chosen: Vec<&'static Plugin> = Vec::new();
    for (name, _) in &own.enabled {
        let plugin = plugin(name).ok_or_else(|| missing(name))?;
        if !plugin.points.has(point) {
            return Err(fault(format!("plugin {name:?} does not extend {kind} plugin")));
        }
        if chosen.iter().any(|known| known.name == plugin.name) {
            return Err(twice(name));
        }
        chosen.push(plugin);
    }
    if own.disables(ALL) {
        return Ok(chosen);
    }
    let mut from_everywhere: Vec<&'static Plugin> = Vec::new();
    for (name, _) in everywhere {
        let plugin = plugin(name).ok_or_else(|| Misplaced {
            field: "multiPoint",
            why: format!("{kind} {name:?} does not exist"),
        })?;
        if !plugin.points.has(point) || own.disables(name) {
            continue;
        }
        if !own.enables(name) && from_everywhere.iter().any(|known| known.name == plugin.name) {
            return Err(Misplaced { field: "multiPoint", ..twice(name) });
        }
        from_everywhere.push(plugin);
    }
    let (mut ordered, last): (Vec<_>, Vec<_>) =
        chosen.into_iter().partition(|plugin| from_everywhere.iter().any(|known| known.name == plugin.name));
    ordered.extend(from_everywhere.into_iter().filter(|plugin| !own.enables(plugin.name)));
    ordered.extend(last);
    Ok(ordered)
}
