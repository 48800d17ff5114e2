//! The demo image's only file, carried inside the Amphipod binary: a machine without a registry
//! can still run something worth looking at. The program itself is `main.rs`.

/// A static executable; see `main.rs` for what it does under which name.
pub static PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/demo"));

/// Names the program answers to, as links beside it in `/bin`.
pub const COMMANDS: [&str; 16] = [
    "sh", "ls", "cat", "env", "ps", "get", "wget", "nslookup", "echo", "hostname", "id", "sleep", "true",
    "false", "pwd", "demo",
];
/// Where the program stands in the image.
pub const PATH: &str = "/demo";
/// Image references, and the version each shows.
pub const IMAGES: [(&str, &str); 2] = [("amphipod.local/demo:1", "1"), ("amphipod.local/demo:2", "2")];
/// The variable that tells the program which version it is.
pub const VERSION_VARIABLE: &str = "DEMO_VERSION";

#[cfg(test)]
mod tests {
    #[test]
    fn the_program_is_a_static_executable() {
        const PT_INTERP: u32 = 3;
        let elf = super::PROGRAM;
        assert_eq!(&elf[..4], b"\x7fELF");
        let u16_at = |at: usize| usize::from(u16::from_le_bytes([elf[at], elf[at + 1]]));
        let offset = u64::from_le_bytes(elf[32..40].try_into().unwrap()) as usize;
        let (size, count) = (u16_at(54), u16_at(56));
        let headers = elf[offset..].chunks(size).take(count);
        let kinds: Vec<u32> = headers.map(|h| u32::from_le_bytes(h[..4].try_into().unwrap())).collect();
        assert!(!kinds.is_empty() && !kinds.contains(&PT_INTERP), "needs a dynamic loader: {kinds:?}");
    }
}
