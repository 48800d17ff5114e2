//! The kinds of storage objects, so that whoever feeds them in needs to know no single one.

use amphipod_client::Resource;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment};

use super::Storage;
use crate::framework::StorageChange;
use crate::symbols::Symbols;

pub trait StorageObject: Resource {
    /// Takes the object in. Whether it says anything new.
    fn set(&self, storage: &mut Storage, symbols: &mut Symbols) -> bool;
    fn remove(storage: &mut Storage, symbols: &Symbols, key: &str);
    /// What of its change, or that it is gone, may help pods that wait.
    fn helps(&self, symbols: &Symbols, gone: bool) -> Option<StorageChange>;
}

macro_rules! objects {
    ($($kind:ty: $set:ident, $remove:ident, $helps:expr;)+) => {$(
        impl StorageObject for $kind {
            fn set(&self, storage: &mut Storage, symbols: &mut Symbols) -> bool {
                storage.$set(symbols, self)
            }
            fn remove(storage: &mut Storage, symbols: &Symbols, key: &str) {
                storage.$remove(symbols, key);
            }
            fn helps(&self, symbols: &Symbols, gone: bool) -> Option<StorageChange> {
                let helps: fn(&Self, &Symbols, bool) -> Option<StorageChange> = $helps;
                helps(self, symbols, gone)
            }
        }
    )+};
}

objects! {
    PersistentVolumeClaim: set_claim, remove_claim, |claim, symbols, gone| {
        let key = symbols.find(&claim.key()).filter(|_| !gone);
        key.map(StorageChange::Claim)
    };
    PersistentVolume: set_volume, remove_volume, |_, _, gone| (!gone).then_some(StorageChange::Volume);
    StorageClass: set_class, remove_class, |_, _, gone| (!gone).then_some(StorageChange::Class);
    CSINode: set_limits, remove_limits, |_, _, gone| (!gone).then_some(StorageChange::Limits);
    CSIDriver: set_driver, remove_driver, |_, _, _| Some(StorageChange::Room);
    CSIStorageCapacity: set_capacity, remove_capacity, |_, _, gone| (!gone).then_some(StorageChange::Room);
    VolumeAttachment: set_attachment, remove_attachment, |_, _, gone| gone.then_some(StorageChange::Detached);
}
