//! Room is made for a pod that found none by taking pods off a node that matter less. How is in
//! [`crate::preemption`].

pub const NAME: &str = "DefaultPreemption";
