//! A pod with gates is not looked at until all of them are taken away.

use crate::pod::Spec;

pub const NAME: &str = "SchedulingGates";

pub fn admits(spec: &Spec) -> bool {
    spec.gates.is_empty()
}
