//! The kinds of objects about devices, so that whoever feeds them in needs to know no single one.

use amphipod_client::Resource;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};

use super::Devices;
use crate::symbols::Symbols;

pub trait DeviceObject: Resource {
    /// Takes the object in. Whether it says anything new.
    fn set(&self, devices: &mut Devices, symbols: &mut Symbols) -> bool;
    fn remove(devices: &mut Devices, symbols: &Symbols, key: &str);
}

macro_rules! objects {
    ($($kind:ty: $set:ident, $remove:ident;)+) => {$(
        impl DeviceObject for $kind {
            fn set(&self, devices: &mut Devices, symbols: &mut Symbols) -> bool {
                devices.$set(symbols, self)
            }
            fn remove(devices: &mut Devices, symbols: &Symbols, key: &str) {
                devices.$remove(symbols, key);
            }
        }
    )+};
}

objects! {
    DeviceClass: set_class, remove_class;
    ResourceSlice: set_slice, remove_slice;
    ResourceClaim: set_claim, remove_claim;
}
