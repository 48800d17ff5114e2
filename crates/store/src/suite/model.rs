//! A store and a naive model do the same random things and must agree on everything.

use std::collections::BTreeMap;

use super::*;

/// A small deterministic generator (SplitMix64): a failure replays from its seed.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`, which must not be 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }
}

/// What a store must hold after each revision: key to (value, create revision, mod revision, version).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    pub items: BTreeMap<String, (Vec<u8>, Revision, Revision, u64)>,
    pub revision: Revision,
}

impl Model {
    /// One random transaction over a small set of keys: one to four operations on distinct keys.
    pub fn random_ops(random: &mut Random) -> Vec<Op> {
        let first = random.below(40);
        let ops = (0..=random.below(4)).map(|n| {
            let key = format!("/{}/{:02}", first % 3, (first + n * 7) % 40);
            if random.below(4) == 0 {
                return Op::Delete { key };
            }
            let len = random.below(120) as usize;
            let mut value = format!("{:016x}", random.number()).repeat(len / 16 + 1);
            if random.below(4) == 0 {
                // Values of which a part is kept once.
                let fields = "x".repeat(130 + random.below(2) as usize);
                value = format!("{{\"fieldsV1\":{{\"{fields}\":{{}}}},\"value\":\"{value}\"}}");
            }
            Op::Put { key, value: Bytes::from(value), stamp: None, lease: None }
        });
        ops.collect()
    }

    pub fn apply(&mut self, ops: &[Op]) {
        let revision = self.revision + 1;
        for op in ops {
            match op {
                Op::Put { key, value, .. } => {
                    let old = self.items.get(key);
                    let (created, version) = old.map_or((revision, 1), |old| (old.1, old.3 + 1));
                    self.items.insert(key.clone(), (value.to_vec(), created, revision, version));
                    self.revision = revision;
                }
                Op::Delete { key } => {
                    if self.items.remove(key).is_some() {
                        self.revision = revision;
                    }
                }
            }
        }
    }

    /// Reads the same from a store.
    pub async fn read(store: &dyn Store, at: Option<Revision>) -> Result<Model, Error> {
        let result = store.range(Range { revision: at, ..Range::prefix("/") }).await?;
        let item = |item: KeyValue| {
            let fields =
                (item.value.contiguous().into_owned(), item.create_revision, item.mod_revision, item.version);
            (item.key.to_string(), fields)
        };
        let items = result.items.into_iter().map(item).collect();
        Ok(Model { items, revision: at.unwrap_or(result.revision) })
    }
}

pub async fn agrees_with_a_model(store: Arc<dyn Store>) {
    const STEPS: usize = 600;
    let base = revision(&*store).await;
    let mut random = Random(7);
    let mut models = vec![Model { revision: base, ..Model::default() }];
    let mut stream = store.watch("/", base).await.expect("watch");
    for _ in 0..STEPS {
        let mut model = models.last().cloned().unwrap_or_default();
        let ops = Model::random_ops(&mut random);
        model.apply(&ops);
        let result = write(&*store, ops).await;
        assert_eq!(result.revision, model.revision);
        if (model.revision - base) as usize == models.len() {
            models.push(model);
        }
    }
    for model in &models {
        let read = Model::read(&*store, Some(model.revision)).await.expect("range");
        assert_eq!(&read, model);
    }
    replay(&mut stream, &models).await;
}

/// Following the events leads through the same states.
async fn replay(stream: &mut WatchStream, models: &[Model]) {
    let mut items: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let base = models[0].revision;
    let mut revision = base;
    while ((revision - base) as usize) < models.len() - 1 {
        let batch = next_batch(stream).await.expect("no error");
        for event in batch.events {
            let before = &models[(event.revision() - base) as usize - 1].items;
            match &event {
                Event::Put(current) => {
                    let stood = before.get(current.key.as_ref()).map(|item| (item.1, item.3 + 1));
                    let want = stood.unwrap_or((current.mod_revision, 1));
                    assert_eq!((current.create_revision, current.version), want);
                    items.insert(current.key.to_string(), current.value.contiguous().into_owned());
                }
                Event::Delete { key, .. } => {
                    assert!(before.contains_key(key.as_ref()), "what was not there is not deleted");
                    items.remove(key.as_ref());
                }
            }
        }
        revision = batch.revision;
        let want = &models[(revision - base) as usize].items;
        assert!(items.iter().eq(want.iter().map(|(key, item)| (key, &item.0)).collect::<BTreeMap<_, _>>()));
    }
}
