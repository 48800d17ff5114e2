//! What each object takes up of a quota, remembered by the object's version: a recount works out
//! only what has changed since the last one.

use std::collections::HashMap;
use std::sync::Arc;

use amphipod_api::pod_resources::{Amounts, add};
use amphipod_api::quantity::Quantity;
use amphipod_client::Resource;

use crate::Error;

struct Counted {
    version: String,
    /// By the name's place among those that are counted: there may be many objects.
    usage: Box<[(usize, Quantity)]>,
}

/// The objects of one kind in a quota's namespace.
#[derive(Default)]
pub struct Tally {
    objects: HashMap<String, Counted>,
}

impl Tally {
    /// Adds what the objects use of `names` to `total`. The same names are asked for every time.
    pub fn add_up<T: Resource>(
        &mut self,
        objects: &[Arc<T>],
        names: &[&str],
        total: &mut Amounts,
        usage: impl Fn(&T) -> Result<Amounts, Error>,
    ) -> Result<(), Error> {
        let mut known = std::mem::take(&mut self.objects);
        for object in objects {
            let known =
                known.remove(object.name()).filter(|known| known.version == object.resource_version());
            let counted = match known {
                // Time changes what an object uses that is about to go.
                Some(known) if !object.is_terminating() => known,
                _ => Counted::new(object.resource_version(), names, &usage(object)?),
            };
            for (place, amount) in &counted.usage {
                add(total, names[*place], *amount);
            }
            self.objects.insert(object.name().to_owned(), counted);
        }
        Ok(())
    }
}

impl Counted {
    fn new(version: &str, names: &[&str], usage: &Amounts) -> Self {
        let amounts = names.iter().enumerate().filter_map(|(place, name)| Some((place, *usage.get(*name)?)));
        Counted { version: version.to_owned(), usage: amounts.collect() }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use amphipod_api::quantity::Format;
    use amphipod_client::CachedPod;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::testing;

    #[test]
    fn only_what_changed_is_looked_at() {
        let pod = |name: &str, version: &str| {
            let mut pod: CachedPod = testing::named("ns", name);
            pod.metadata.resource_version = Some(version.to_owned());
            pod
        };
        let mut going = pod("going", "3");
        going.metadata.deletion_timestamp = Some(Time(testing::at(0)));
        let looked = RefCell::new(Vec::new());
        let mut tally = Tally::default();
        let mut count = |pods: Vec<CachedPod>| {
            let mut total = Amounts::new();
            let objects: Vec<Arc<CachedPod>> = pods.into_iter().map(Arc::new).collect();
            let usage = |pod: &CachedPod| {
                looked.borrow_mut().push(pod.name().to_owned());
                let one = Quantity::from_units(1, Format::DecimalSi);
                Ok(Amounts::from([("cpu".to_owned(), one), ("pods".to_owned(), one)]))
            };
            tally.add_up(&objects, &["memory", "pods"], &mut total, usage).unwrap();
            let looked = looked.take().join(" ");
            (total.into_iter().map(|(name, amount)| format!("{name}={amount}")).collect::<String>(), looked)
        };
        let first = count(vec![pod("a", "1"), pod("b", "2"), going.clone()]);
        assert_eq!(first, ("pods=3".to_owned(), "a b going".to_owned()));
        let second = count(vec![pod("a", "1"), pod("b", "4"), going]);
        assert_eq!(second, ("pods=3".to_owned(), "b going".to_owned()));
        assert_eq!(count(vec![pod("b", "4")]), ("pods=1".to_owned(), String::new()));
        assert_eq!(count(vec![pod("a", "1")]), ("pods=1".to_owned(), "a".to_owned()), "it had gone");
    }
}
