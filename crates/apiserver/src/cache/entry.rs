//! One cached object: the wire text shared with the store, and a packed extract for selectors.

use std::borrow::Cow;
use std::ops::Range;

use amphipod_api::protobuf::{self, Writer};
use amphipod_api::resource::Resource;
use amphipod_api::selector::{FieldSelector, LabelSelector};
use amphipod_api::status::Status;
use amphipod_store::{Error as StoreError, Key, KeyValue, Revision, Text};
use bytes::Bytes;

use super::extract::{Found, Wanted};
use super::foreign::{self, Kind};
use super::message::Message;

/// Separates the parts of a packed extract; cannot occur in labels, and a field that holds it is
/// cut there (selecting by such a value finds nothing).
const SEPARATOR: char = '\0';
/// Stands for an absent field.
const ABSENT: &str = "\u{1}";

#[derive(Debug)]
pub struct Entry {
    pub key: Key,
    /// The object in its storage version, resourceVersion in place.
    pub text: Text,
    pub revision: Revision,
    /// Where in `text` the resourceVersion's digits stand.
    stamp: (u32, u32),
    /// Selectable fields in the collection's order, then label keys and values in turn.
    packed: Box<str>,
    message: Message,
}

impl Entry {
    /// `kind` says what the object should be stored as, where somebody else wrote it.
    pub fn new(wanted: &Wanted, kind: Option<&Kind>, item: &KeyValue) -> Result<Self, StoreError> {
        let stored = item.value.contiguous();
        let (text, found) = match wanted.extract(&stored) {
            Ok(found) if is_stamped(&stored, &found, item.mod_revision) => (item.value.clone(), found),
            _ => {
                let text = foreign::rewritten(kind, item)?;
                let found = wanted
                    .extract(&text.contiguous())
                    .map_err(|e| StoreError::Unreadable { key: item.key.to_string(), why: e.to_string() })?;
                (text, found)
            }
        };
        let mut packed = String::new();
        let mut push = |part: &str| {
            packed.extend(part.chars().filter(|c| *c != SEPARATOR));
            packed.push(SEPARATOR);
        };
        for field in &found.fields {
            push(field.as_deref().unwrap_or(ABSENT));
        }
        for (key, value) in &found.labels {
            push(key);
            push(value);
        }
        let (at, length) = found.stamp.unwrap_or((0, 0));
        // Objects are bounded by the body limit, far below 4 GiB.
        let stamp = (u32::try_from(at).unwrap_or(0), u32::try_from(length).unwrap_or(0));
        Ok(Entry {
            key: item.key.clone(),
            text,
            revision: item.mod_revision,
            stamp,
            packed: packed.into(),
            message: Message::default(),
        })
    }

    /// The object as a protobuf message in its storage version.
    pub fn message(&self, writer: Writer) -> Result<Text, protobuf::Error> {
        self.message.get(writer, &self.text)
    }

    /// `[<namespace>/]<name>`: the key below the collection's prefix.
    pub fn path<'a>(&'a self, prefix: &str) -> &'a str {
        self.key.strip_prefix(prefix).unwrap_or(&self.key)
    }

    /// The text, or how it looks at another resourceVersion: deletions are shown so.
    pub fn shown(&self, restamp: Option<Revision>) -> Shown<'_> {
        let (at, length) = (self.stamp.0 as usize, self.stamp.1 as usize);
        match restamp {
            Some(revision) if at > 0 => {
                Shown { text: &self.text, stamp: at..at + length, digits: revision.to_string() }
            }
            _ => Shown { text: &self.text, stamp: 0..0, digits: String::new() },
        }
    }

    fn parts(&self) -> impl Iterator<Item = &str> {
        self.packed.split_terminator(SEPARATOR)
    }
    fn field(&self, index: usize) -> Option<&str> {
        self.parts().nth(index).filter(|value| *value != ABSENT)
    }
    /// The value of a label, where the collection extracts so many fields.
    pub fn label(&self, fields: usize, key: &str) -> Option<&str> {
        let mut parts = self.parts().skip(fields);
        while let (Some(name), Some(value)) = (parts.next(), parts.next()) {
            if name == key {
                return Some(value);
            }
        }
        None
    }
}

/// An entry's text with other digits in place of its stamp; nothing else of it is copied.
pub struct Shown<'a> {
    text: &'a Text,
    stamp: Range<usize>,
    digits: String,
}

impl Shown<'_> {
    /// In bytes.
    pub fn size(&self) -> usize {
        self.text.len() - self.stamp.len() + self.digits.len()
    }

    /// From front to back.
    pub fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        let (before, after) = self.around();
        let digits = std::iter::once(self.digits.as_bytes());
        self.text.chunks_in(before).chain(digits).chain(self.text.chunks_in(after))
    }

    /// The same, to send later.
    pub fn slices(&self) -> impl Iterator<Item = Bytes> {
        let (before, after) = self.around();
        let digits = std::iter::once_with(|| Bytes::from(self.digits.clone()));
        self.text.slices_in(before).chain(digits).chain(self.text.slices_in(after))
    }

    /// In one piece.
    pub fn contiguous(&self) -> Cow<'_, [u8]> {
        if self.digits.is_empty() {
            return self.text.contiguous();
        }
        let mut whole = Vec::with_capacity(self.size());
        self.chunks().for_each(|chunk| whole.extend_from_slice(chunk));
        whole.into()
    }

    fn around(&self) -> (Range<usize>, Range<usize>) {
        (0..self.stamp.start, self.stamp.end..self.text.len())
    }
}

/// Whether the revision stands in the value, as it does in all that this server wrote.
fn is_stamped(value: &[u8], found: &Found, revision: Revision) -> bool {
    let digits = found.stamp.and_then(|(at, length)| value.get(at..at + length));
    digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok()) == Some(revision)
}

/// Label and field selectors made ready for the entries of one collection.
#[derive(Clone, Debug, Default)]
pub struct Selector {
    labels: LabelSelector,
    fields: FieldSelector,
    /// Where each field label's value is in the packed extract.
    places: Vec<Place>,
    /// How many fields the collection extracts.
    extracted: usize,
    prefix: String,
    namespaced: bool,
}

#[derive(Clone, Debug)]
struct Place {
    label: String,
    index: usize,
    absent: Absent,
}

/// What an absent field compares as.
#[derive(Clone, Debug)]
enum Absent {
    Text(String),
    /// As another field.
    Field(usize),
}

impl Place {
    fn value<'a>(&'a self, entry: &'a Entry) -> &'a str {
        entry.field(self.index).unwrap_or_else(|| match &self.absent {
            Absent::Text(text) => text,
            Absent::Field(index) => entry.field(*index).unwrap_or(""),
        })
    }
}

impl Selector {
    /// Everything in the collection.
    pub fn everything() -> Self {
        Selector::default()
    }

    /// `pointers` are the collection's, in extraction order.
    pub fn new(
        resource: &Resource,
        prefix: &str,
        pointers: &[String],
        labels: LabelSelector,
        fields: FieldSelector,
    ) -> Result<Self, Status> {
        fields.check(resource)?;
        let place = |f: &amphipod_api::resource::SelectableField| {
            let index = pointers.iter().position(|p| *p == f.pointer)?;
            let absent = match f.instead() {
                Some(pointer) => Absent::Field(pointers.iter().position(|p| p == pointer)?),
                None => Absent::Text(f.absent.to_string()),
            };
            Some(Place { label: f.label.to_string(), index, absent })
        };
        Ok(Selector {
            places: resource.selectable_fields.iter().filter_map(place).collect(),
            labels,
            fields,
            extracted: pointers.len(),
            prefix: prefix.to_owned(),
            namespaced: resource.namespaced,
        })
    }

    pub fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_empty()
    }

    /// The one value this field must have, when the selector says so.
    pub fn required(&self, label: &str) -> Option<&str> {
        self.fields.required(label)
    }

    pub fn matches(&self, entry: &Entry) -> bool {
        if self.labels.is_nothing() {
            return false;
        }
        (self.labels.is_everything() || self.labels.matches(|key| entry.label(self.extracted, key)))
            && (self.fields.is_empty() || self.fields.matches(|label| self.field(entry, label)))
    }

    fn field<'a>(&'a self, entry: &'a Entry, label: &str) -> Cow<'a, str> {
        let path = entry.path(&self.prefix);
        let (namespace, name) = match (self.namespaced, path.split_once('/')) {
            (true, Some(parts)) => parts,
            _ => ("", path),
        };
        match label {
            "metadata.name" => name.into(),
            "metadata.namespace" => namespace.into(),
            _ => match self.places.iter().find(|place| place.label == label) {
                Some(place) => place.value(entry).into(),
                None => "".into(),
            },
        }
    }
}

/// The value of one extracted field, for waking only the watchers that ask for it.
pub fn trigger_value(entry: &Entry, index: usize) -> &str {
    entry.field(index).unwrap_or("")
}
