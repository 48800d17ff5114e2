//! Properties that hold for every object, tried on objects made from a seed. A failure prints its
//! seed; `PROPERTY_SEED=<n>` tries that one alone.

mod apply;
mod choices;
mod objects;
mod protobuf;
mod rng;
mod strategic;

/// Runs a property for `count` seeds.
pub fn for_seeds(count: u64, property: impl Fn(u64) + std::panic::RefUnwindSafe) {
    let one = std::env::var("PROPERTY_SEED").ok().and_then(|text| text.parse().ok());
    let seeds = one.map_or(0..count, |seed: u64| seed..seed + 1);
    for seed in seeds {
        if let Err(cause) = std::panic::catch_unwind(|| property(seed)) {
            eprintln!("PROPERTY_SEED={seed}");
            std::panic::resume_unwind(cause);
        }
    }
}
