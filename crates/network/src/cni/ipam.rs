//! Addresses of this node's pods. The node claims small blocks of the pod range as it needs them;
//! within a block, one file per reserved address says who holds it:
//!
//! ```text
//! <state-dir>/blocks/10.244.0.0_26/10.244.0.5    {"container":"..","interface":"eth0","namespace":".."}
//! <state-dir>/last                               10.244.0.5
//! <state-dir>/lock
//! ```
//!
//! A file appears whole (it is renamed into place) or not at all, so a crash at any point leaves
//! at worst a reservation whose network namespace is gone; those are reclaimed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use rustix::fs::{FlockOperation, Mode, OFlags, flock, fstatfs};
use serde::{Deserialize, Serialize};

use crate::Error;

/// 64 addresses: a node with the usual limit of 110 pods holds two blocks.
const BLOCK_PREFIX: u8 = 26;
/// `statfs` says this of a network namespace's file.
const NAMESPACE_MAGIC: u64 = 0x6e73_6673;

/// Who holds an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub container: String,
    pub interface: String,
    pub namespace: PathBuf,
}

/// The state directory, locked against other plugin calls while this lives.
pub struct Store {
    dir: PathBuf,
    _lock: File,
}

type Reservations = BTreeMap<Ipv4Addr, (PathBuf, Option<Holder>)>;

/// Picks the next address round robin, so that an address just released is not given to another
/// pod at once: peers may still talk to the old one.
fn pick(blocks: &[Ipv4Net], taken: impl Fn(Ipv4Addr) -> bool, last: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
    let free = || {
        let all = blocks.iter().flat_map(|block| u32::from(block.network())..=u32::from(block.broadcast()));
        all.map(Ipv4Addr::from).filter(|address| !taken(*address))
    };
    free().find(|address| last.is_none_or(|last| *address > last)).or_else(|| free().next())
}

/// Addresses nobody may get: the range's own, its broadcast address and the gateway.
fn is_special(address: Ipv4Addr, range: Ipv4Net, gateway: Ipv4Addr) -> bool {
    address == range.network() || address == range.broadcast() || address == gateway
}

impl Store {
    /// Waits for its turn.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("lock");
        fs::create_dir_all(dir.join("blocks")).map_err(|e| Error::file(dir, e))?;
        let lock = File::create(&path).map_err(|e| Error::file(&path, e))?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|e| Error::file(&path, e))?;
        Ok(Store { dir: dir.to_owned(), _lock: lock })
    }

    fn blocks_dir(&self) -> PathBuf {
        self.dir.join("blocks")
    }

    fn blocks(&self) -> Result<Vec<Ipv4Net>, Error> {
        let mut blocks: Vec<Ipv4Net> = names(&self.blocks_dir())?
            .iter()
            .filter_map(|name| name.replace('_', "/").parse().ok())
            .collect();
        blocks.sort();
        Ok(blocks)
    }

    fn block_dir(&self, block: Ipv4Net) -> PathBuf {
        self.blocks_dir().join(format!("{}_{}", block.network(), block.prefix_len()))
    }

    fn reservations(&self) -> Result<Reservations, Error> {
        let mut all = Reservations::new();
        for block in self.blocks()? {
            let dir = self.block_dir(block);
            for name in names(&dir)? {
                let Ok(address) = name.parse() else { continue };
                let path = dir.join(&name);
                let text = fs::read(&path).map_err(|e| Error::file(&path, e))?;
                // Unreadable after a power failure: then its pod is gone too.
                all.insert(address, (path, serde_json::from_slice(&text).ok()));
            }
        }
        Ok(all)
    }

    /// An address for `holder`; the one it has already where an earlier call got that far.
    pub fn reserve(&self, range: Ipv4Net, gateway: Ipv4Addr, holder: &Holder) -> Result<Ipv4Addr, Error> {
        let mut taken = self.reservations()?;
        let same =
            |other: &Holder| other.container == holder.container && other.interface == holder.interface;
        let mine = taken.iter().find(|(_, (_, other))| other.as_ref().is_some_and(same));
        if let Some((address, _)) = mine {
            let address = *address;
            self.write(&self.path_of(address)?, holder)?;
            return Ok(address);
        }
        let last = fs::read_to_string(self.dir.join("last")).ok().and_then(|text| text.trim().parse().ok());
        let mut blocks = self.blocks()?;
        blocks.retain(|block| range.contains(block));
        let free = |blocks: &[Ipv4Net], taken: &Reservations| {
            let is_taken = |address| taken.contains_key(&address) || is_special(address, range, gateway);
            pick(blocks, is_taken, last)
        };
        let mut found = free(&blocks, &taken);
        if found.is_none() && self.reclaim(&mut taken)? > 0 {
            found = free(&blocks, &taken);
        }
        if found.is_none() {
            blocks.extend(self.claim_block(range, &blocks)?);
            found = free(&blocks, &taken);
        }
        let address = found.ok_or(Error::NoAddress(range))?;
        self.write(&self.path_of(address)?, holder)?;
        // Only a hint: where it is lost, the search starts from the beginning.
        let _ = fs::write(self.dir.join("last"), address.to_string());
        Ok(address)
    }

    fn claim_block(&self, range: Ipv4Net, have: &[Ipv4Net]) -> Result<Option<Ipv4Net>, Error> {
        let prefix = BLOCK_PREFIX.max(range.prefix_len());
        let mut all = range.subnets(prefix).map_err(|e| Error::Invalid(e.to_string()))?;
        let Some(block) = all.find(|block| !have.contains(block)) else { return Ok(None) };
        let dir = self.block_dir(block);
        fs::create_dir_all(&dir).map_err(|e| Error::file(&dir, e))?;
        Ok(Some(block))
    }

    fn path_of(&self, address: Ipv4Addr) -> Result<PathBuf, Error> {
        let block = self.blocks()?.into_iter().find(|block| block.contains(&address));
        let block = block.ok_or_else(|| Error::Invalid(format!("{address} is in no block of this node")))?;
        Ok(self.block_dir(block).join(address.to_string()))
    }

    fn write(&self, path: &Path, holder: &Holder) -> Result<(), Error> {
        let text = serde_json::to_vec(holder).map_err(|e| Error::Invalid(e.to_string()))?;
        let fresh = self.dir.join("reservation.new");
        fs::write(&fresh, text).map_err(|e| Error::file(&fresh, e))?;
        fs::rename(&fresh, path).map_err(|e| Error::file(path, e))
    }

    /// The address reserved for a container's interface.
    pub fn address_of(&self, container: &str, interface: &str) -> Result<Option<Ipv4Addr>, Error> {
        let is_wanted = |holder: &Holder| holder.container == container && holder.interface == interface;
        let all = self.reservations()?;
        Ok(all.into_iter().find(|(_, (_, h))| h.as_ref().is_some_and(is_wanted)).map(|(address, _)| address))
    }

    /// Releases what a container's interface holds; nothing is fine.
    pub fn release(&self, container: &str, interface: &str) -> Result<(), Error> {
        let mut all = self.reservations()?;
        all.retain(|_, (_, holder)| {
            holder.as_ref().is_some_and(|h| h.container == container && h.interface == interface)
        });
        for (path, _) in all.values() {
            remove(path)?;
        }
        Ok(())
    }

    /// Releases what is held for namespaces that are no more. Says how many.
    pub fn reclaim_stale(&self) -> Result<usize, Error> {
        let mut all = self.reservations()?;
        self.reclaim(&mut all)
    }

    fn reclaim(&self, all: &mut Reservations) -> Result<usize, Error> {
        let before = all.len();
        let mut outcome = Ok(());
        all.retain(|_, (path, holder)| {
            let is_live = holder.as_ref().is_some_and(|holder| is_namespace(&holder.namespace));
            if !is_live && outcome.is_ok() {
                outcome = remove(path);
            }
            is_live
        });
        outcome.map(|()| before - all.len())
    }
}

fn names(dir: &Path) -> Result<Vec<String>, Error> {
    let entries = fs::read_dir(dir).map_err(|e| Error::file(dir, e))?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::file(path, error)),
        _ => Ok(()),
    }
}

/// Whether a path leads to a namespace that exists. After a reboot the file may still be there,
/// empty, with nothing mounted on it.
fn is_namespace(path: &Path) -> bool {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    file.and_then(fstatfs).is_ok_and(|fs| fs.f_type as u64 == NAMESPACE_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, 0), 25);
    const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);

    fn holder(container: &str, namespace: &str) -> Holder {
        Holder { container: container.into(), interface: "eth0".into(), namespace: namespace.into() }
    }

    /// A namespace that exists.
    fn live(container: &str) -> Holder {
        holder(container, "/proc/self/ns/net")
    }

    #[test]
    fn addresses_are_unique_and_repeatable() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let first = store.reserve(RANGE, GATEWAY, &live("a")).unwrap();
        let second = store.reserve(RANGE, GATEWAY, &live("b")).unwrap();
        assert_eq!([first, second], ["10.244.0.2", "10.244.0.3"].map(|a| a.parse::<Ipv4Addr>().unwrap()));
        assert_eq!(store.reserve(RANGE, GATEWAY, &live("a")).unwrap(), first);
        assert_eq!(store.address_of("b", "eth0").unwrap(), Some(second));
    }

    #[test]
    fn a_released_address_is_not_given_again_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let first = store.reserve(RANGE, GATEWAY, &live("a")).unwrap();
        store.release("a", "eth0").unwrap();
        assert_ne!(store.reserve(RANGE, GATEWAY, &live("b")).unwrap(), first);
        store.release("none", "eth0").unwrap();
    }

    #[test]
    fn blocks_are_claimed_until_the_range_is_full() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        // 128 addresses but the network's, the broadcast's and the gateway's.
        for number in 0..125 {
            store.reserve(RANGE, GATEWAY, &live(&number.to_string())).unwrap();
        }
        assert_eq!(store.blocks().unwrap().len(), 2);
        let full = store.reserve(RANGE, GATEWAY, &live("more"));
        assert!(matches!(full, Err(Error::NoAddress(_))));
        store.release("7", "eth0").unwrap();
        assert_eq!(store.reserve(RANGE, GATEWAY, &live("more")).unwrap().to_string(), "10.244.0.9");
    }

    #[test]
    fn reservations_of_gone_namespaces_and_torn_files_are_reclaimed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.reserve(RANGE, GATEWAY, &live("a")).unwrap();
        store.reserve(RANGE, GATEWAY, &holder("b", "/nowhere")).unwrap();
        let plain = dir.path().join("plain");
        fs::write(&plain, "").unwrap();
        store.reserve(RANGE, GATEWAY, &holder("c", plain.to_str().unwrap())).unwrap();
        fs::write(store.path_of("10.244.0.9".parse().unwrap()).unwrap(), "{").unwrap();
        assert_eq!(store.reclaim_stale().unwrap(), 3);
        assert_eq!(store.reservations().unwrap().len(), 1);
    }
}
