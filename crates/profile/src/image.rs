//! The files this process runs code of: how their stacks are unwound, and what their functions are
//! called as far as they still say so.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;

use framehop::{
    CacheNative, ExplicitModuleSectionInfo, MayAllocateDuringUnwind, Module, UnwindRegsNative, Unwinder,
    UnwinderNative,
};
use object::read::ReadCache;
use object::{Object, ObjectSection, ObjectSegment, ObjectSymbol, SymbolKind};

use crate::sampler::Sample;

/// Frames told of one stack; recursion beyond them says nothing more.
const MAX_FRAMES: usize = 256;

/// One file's code in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    pub path: String,
    pub memory: Range<u64>,
    /// Of the start of `memory` in the file.
    pub file_offset: u64,
    /// Added to an address in the file, it gives the one in memory.
    pub bias: u64,
    /// In hexadecimal digits, empty where the file has none.
    pub build_id: String,
}

pub struct Images {
    unwinder: UnwinderNative<Vec<u8>, MayAllocateDuringUnwind>,
    cache: CacheNative<MayAllocateDuringUnwind>,
    images: Vec<Image>,
}

impl Images {
    /// What cannot be read is left out; stacks end where they get there.
    pub fn of_this_process() -> Self {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        let mut unwinder = UnwinderNative::new();
        let mut images = Vec::new();
        for mapped in executables(&maps) {
            if let Some((image, module)) = load(&mapped) {
                unwinder.add_module(module);
                images.push(image);
            }
        }
        Images { unwinder, cache: CacheNative::new(), images }
    }

    pub fn list(&self) -> &[Image] {
        &self.images
    }

    /// Where the sample was and who called, the innermost first. Callers are told by the call, not by
    /// where it returns to.
    pub fn unwind(&mut self, sample: &Sample) -> Vec<u64> {
        let registers = &sample.registers;
        #[cfg(target_arch = "x86_64")]
        let start = UnwindRegsNative::new(registers.pc, registers.sp, registers.fp);
        #[cfg(target_arch = "aarch64")]
        let start = UnwindRegsNative::new(registers.lr, registers.sp, registers.fp);
        let mut read = |address: u64| {
            let at = usize::try_from(address.wrapping_sub(registers.sp)).map_err(drop)?;
            let word = sample.stack.get(at..).and_then(|rest| rest.first_chunk());
            word.map(|bytes| u64::from_ne_bytes(*bytes)).ok_or(())
        };
        let mut frames = Vec::new();
        let mut found = self.unwinder.iter_frames(registers.pc, start, &mut self.cache, &mut read);
        while frames.len() < MAX_FRAMES
            && let Ok(Some(frame)) = found.next()
        {
            frames.push(frame.address_for_lookup());
        }
        frames
    }
}

impl Image {
    /// What the functions at these addresses are called, where the file knows.
    pub fn names(&self, addresses: &[u64]) -> HashMap<u64, String> {
        let Ok(content) = File::open(&self.path) else { return HashMap::new() };
        let content = ReadCache::new(content);
        let Ok(file) = object::File::parse(&content) else { return HashMap::new() };
        let mut functions: Vec<(Range<u64>, &str)> = file
            .symbols()
            .chain(file.dynamic_symbols())
            .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() > 0)
            .filter_map(|s| Some((s.address()..s.address().checked_add(s.size())?, s.name().ok()?)))
            .collect();
        functions.sort_unstable_by_key(|(range, _)| range.start);
        let name = |address: &u64| {
            let wanted = address.wrapping_sub(self.bias);
            let after = functions.partition_point(|(range, _)| range.start <= wanted);
            let (range, name) = functions.get(after.checked_sub(1)?)?;
            range.contains(&wanted).then(|| (*address, (*name).to_owned()))
        };
        addresses.iter().filter_map(name).collect()
    }
}

/// A file's code as `/proc/self/maps` tells of it.
#[derive(Debug, PartialEq)]
struct Mapped<'a> {
    path: &'a str,
    /// Where the file's first byte is.
    base: u64,
    memory: Range<u64>,
    file_offset: u64,
}

fn executables(maps: &str) -> Vec<Mapped<'_>> {
    let mut bases: HashMap<&str, u64> = HashMap::new();
    let mut found = Vec::new();
    for line in maps.lines() {
        let mut fields = line.split_ascii_whitespace();
        let (Some(range), Some(rights), Some(offset)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let path = line.find('/').map_or("", |at| line.get(at..).unwrap_or(""));
        let number = |text: &str| u64::from_str_radix(text, 16).ok();
        let range = range.split_once('-').and_then(|(start, end)| Some(number(start)?..number(end)?));
        let (Some(memory), Some(file_offset)) = (range, number(offset)) else { continue };
        if path.is_empty() || path.ends_with(" (deleted)") {
            continue;
        }
        if file_offset == 0 {
            bases.insert(path, memory.start);
        }
        if rights.contains('x')
            && let Some(base) = bases.get(path)
        {
            found.push(Mapped { path, base: *base, memory, file_offset });
        }
    }
    found
}

fn load(mapped: &Mapped<'_>) -> Option<(Image, Module<Vec<u8>>)> {
    let content = ReadCache::new(File::open(mapped.path).ok()?);
    let file = object::File::parse(&content).ok()?;
    // The first segment is the one with the file's first byte.
    let first = file.segments().find(|segment| segment.file_range().0 == 0)?.address();
    let range = |name: &str| file.section_by_name(name).map(|s| s.address()..s.address() + s.size());
    let data = |name: &str| file.section_by_name(name)?.data().ok().map(<[u8]>::to_vec);
    let sections = ExplicitModuleSectionInfo {
        base_svma: first,
        text_svma: range(".text"),
        got_svma: range(".got"),
        eh_frame_svma: range(".eh_frame"),
        eh_frame: data(".eh_frame"),
        eh_frame_hdr_svma: range(".eh_frame_hdr"),
        eh_frame_hdr: data(".eh_frame_hdr"),
        ..ExplicitModuleSectionInfo::default()
    };
    let build_id = file.build_id().ok().flatten().unwrap_or_default();
    let image = Image {
        path: mapped.path.to_owned(),
        memory: mapped.memory.clone(),
        file_offset: mapped.file_offset,
        bias: mapped.base.wrapping_sub(first),
        build_id: build_id.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    Some((image, Module::new(mapped.path.to_owned(), mapped.memory.clone(), mapped.base, sections)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_found_in_maps() {
        let maps = "\
            5000-6000 r--p 00000000 fd:01 12 /bin/a b\n\
            6000-8000 r-xp 00001000 fd:01 12 /bin/a b\n\
            8000-9000 rw-p 00003000 fd:01 12 /bin/a b\n\
            a000-b000 r--p 00000000 fd:01 13 /lib/c (deleted)\n\
            b000-c000 r-xp 00001000 fd:01 13 /lib/c (deleted)\n\
            c000-d000 r-xp 00000000 00:00 0 [vdso]\n\
            rubbish\n";
        let expected = Mapped { path: "/bin/a b", base: 0x5000, memory: 0x6000..0x8000, file_offset: 0x1000 };
        assert_eq!(executables(maps), [expected]);
    }
}
