//! From counted stacks to pprof's messages. Pure, but for the files that know names.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost::Message;

use crate::HERTZ;
use crate::image::Image;
use crate::proto::{Function, Line, Location, Mapping, Profile, Sample, ValueType};

/// Processor time that one sample stands for.
const PERIOD_NANOS: i64 = 1_000_000_000 / HERTZ as i64;

/// What was taken.
pub struct Taken {
    pub stacks: HashMap<Vec<u64>, u64>,
    /// Samples there was no room for.
    pub lost: usize,
    pub begun: SystemTime,
    pub lasted: Duration,
}

/// Texts by their place, each once.
struct Strings {
    table: Vec<String>,
    known: HashMap<String, i64>,
}

impl Strings {
    fn new() -> Self {
        Strings { table: vec![String::new()], known: HashMap::from([(String::new(), 0)]) }
    }
    fn index(&mut self, text: &str) -> i64 {
        if let Some(index) = self.known.get(text) {
            return *index;
        }
        let index = as_i64(self.table.len());
        self.table.push(text.to_owned());
        self.known.insert(text.to_owned(), index);
        index
    }
}

fn as_i64(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

pub fn profile(taken: &Taken, images: &[Image]) -> Profile {
    let mut strings = Strings::new();
    let mut profile = Profile {
        sample_type: [("samples", "count"), ("cpu", "nanoseconds")]
            .map(|(kind, unit)| ValueType { r#type: strings.index(kind), unit: strings.index(unit) })
            .into(),
        time_nanos: nanos(taken.begun.duration_since(UNIX_EPOCH).unwrap_or_default()),
        duration_nanos: nanos(taken.lasted),
        period: PERIOD_NANOS,
        ..Profile::default()
    };
    profile.period_type = profile.sample_type.get(1).copied();
    if taken.lost > 0 {
        profile.comment.push(strings.index(&format!("{} samples were lost", taken.lost)));
    }
    let locations = locate(&mut profile, &mut strings, taken, images);
    let mut stacks: Vec<(&Vec<u64>, &u64)> = taken.stacks.iter().collect();
    stacks.sort_unstable();
    for (stack, count) in stacks {
        let count = i64::try_from(*count).unwrap_or(i64::MAX);
        profile.sample.push(Sample {
            location_id: stack.iter().filter_map(|address| locations.get(address).copied()).collect(),
            value: vec![count, count.saturating_mul(PERIOD_NANOS)],
        });
    }
    profile.string_table = strings.table;
    profile
}

/// Writes mappings, locations and functions; answers the location of each address.
fn locate(
    profile: &mut Profile,
    strings: &mut Strings,
    taken: &Taken,
    images: &[Image],
) -> BTreeMap<u64, u64> {
    let mut locations: BTreeMap<u64, u64> =
        taken.stacks.keys().flatten().map(|address| (*address, 0)).collect();
    let mut functions: HashMap<String, u64> = HashMap::new();
    for (image, mapping_id) in images.iter().zip(1..) {
        let within: Vec<u64> = locations.range(image.memory.clone()).map(|(address, _)| *address).collect();
        let names = image.names(&within);
        profile.mapping.push(Mapping {
            id: mapping_id,
            memory_start: image.memory.start,
            memory_limit: image.memory.end,
            file_offset: image.file_offset,
            filename: strings.index(&image.path),
            build_id: strings.index(&image.build_id),
            has_functions: !within.is_empty() && within.iter().all(|address| names.contains_key(address)),
        });
        for address in within {
            let line = names
                .get(&address)
                .map(|name| Line { function_id: function(profile, strings, &mut functions, name) });
            let id = profile.location.len() as u64 + 1;
            profile.location.push(Location { id, mapping_id, address, line: line.into_iter().collect() });
            locations.insert(address, id);
        }
    }
    // What is in no file, the kernel's page in every process for one.
    for (address, id) in locations.iter_mut().filter(|(_, id)| **id == 0) {
        *id = profile.location.len() as u64 + 1;
        profile.location.push(Location { id: *id, address: *address, ..Location::default() });
    }
    locations
}

fn function(
    profile: &mut Profile,
    strings: &mut Strings,
    known: &mut HashMap<String, u64>,
    name: &str,
) -> u64 {
    if let Some(id) = known.get(name) {
        return *id;
    }
    let id = profile.function.len() as u64 + 1;
    // Without the hash that tells instances apart.
    let shown = format!("{:#}", rustc_demangle::demangle(name));
    profile.function.push(Function { id, name: strings.index(&shown), system_name: strings.index(name) });
    known.insert(name.to_owned(), id);
    id
}

pub fn pack(profile: &Profile) -> std::io::Result<Vec<u8>> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(&profile.encode_to_vec())?;
    packer.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_become_samples() {
        let image = Image {
            path: "/nowhere".into(),
            memory: 0x1000..0x2000,
            file_offset: 0x500,
            bias: 0x500,
            build_id: "ab".into(),
        };
        let taken = Taken {
            stacks: HashMap::from([(vec![0x1100, 0x1200], 2), (vec![0x1100, 0x9000], 1)]),
            lost: 3,
            begun: UNIX_EPOCH + Duration::from_secs(1),
            lasted: Duration::from_secs(2),
        };
        let profile = profile(&taken, &[image]);
        let text = |index: i64| profile.string_table[usize::try_from(index).expect("an index")].as_str();
        assert_eq!((profile.time_nanos, profile.duration_nanos), (1_000_000_000, 2_000_000_000));
        assert_eq!(
            profile.sample_type.iter().map(|t| text(t.r#type)).collect::<Vec<_>>(),
            ["samples", "cpu"]
        );
        let mapping = profile.mapping[0];
        assert_eq!(
            (text(mapping.filename), text(mapping.build_id), mapping.has_functions),
            ("/nowhere", "ab", false)
        );
        let addresses = |sample: &Sample| -> Vec<(u64, u64)> {
            let of = |id: &u64| profile.location.iter().find(|l| l.id == *id).expect("a location");
            sample.location_id.iter().map(of).map(|l| (l.mapping_id, l.address)).collect()
        };
        assert_eq!(addresses(&profile.sample[0]), [(1, 0x1100), (1, 0x1200)]);
        assert_eq!(addresses(&profile.sample[1]), [(1, 0x1100), (0, 0x9000)]);
        assert_eq!(profile.sample[0].value, [2, 2 * PERIOD_NANOS]);
        assert_eq!(text(profile.comment[0]), "3 samples were lost");
    }
}
