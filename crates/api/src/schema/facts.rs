//! The shape of one fact. Generated tables and the hand-written overlay are made of these.

/// A JSON object type and, where it has one, its protobuf message.
#[derive(Debug)]
pub struct Message {
    /// OpenAPI definition name: `io.k8s.api.core.v1.Pod`.
    pub name: &'static str,
    pub group: &'static str,
    pub version: &'static str,
    /// Not empty for types that carry apiVersion and kind.
    pub kind: &'static str,
    /// Server-side apply owns it as a whole.
    pub atomic: bool,
    pub special: Special,
    pub fields: &'static [Field],
}

/// Types whose JSON form is not the object their protobuf message suggests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    Plain,
    /// RFC 3339, seconds.
    Time,
    /// RFC 3339, microseconds.
    MicroTime,
    /// Go's duration text.
    Duration,
    IntOrString,
    Quantity,
    /// Any object, kept as it is.
    RawExtension,
    FieldsV1,
    /// Any JSON value.
    Json,
    SchemaOrArray,
    SchemaOrBool,
    SchemaOrStrings,
    /// A message around a list of strings: the list itself.
    Items,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar {
    Bool,
    Int32,
    Int64,
    Double,
    Text,
    Bytes,
    /// Index into the table of messages.
    Msg(u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Single,
    List,
    Map,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListKind {
    /// Owned and replaced as a whole.
    Atomic,
    /// Every value is an item of its own.
    Set,
    /// Items are told apart by `list_keys`.
    Map,
}

/// What a strategic merge patch does with the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Nothing said: maps merge, lists are replaced.
    Unset,
    Merge,
    Replace,
    RetainKeys,
    MergeRetainKeys,
}

#[derive(Debug)]
pub struct Field {
    /// As JSON spells it.
    pub name: &'static str,
    pub tag: u32,
    pub scalar: Scalar,
    pub shape: Shape,
    pub list_kind: ListKind,
    pub list_keys: &'static [&'static str],
    pub merge_key: &'static str,
    pub strategy: Strategy,
    /// Map or struct owned as a whole.
    pub atomic: bool,
    /// Overrides an atomic type at this place.
    pub granular: bool,
    pub required: bool,
    /// An embedded struct: its fields appear in the parent's JSON.
    pub inline: bool,
    /// JSON text of the declared default, if any.
    pub default: &'static str,
}

pub(super) const fn field(name: &'static str, tag: u32, scalar: Scalar) -> Field {
    Field {
        name,
        tag,
        scalar,
        shape: Shape::Single,
        list_kind: ListKind::Atomic,
        list_keys: &[],
        merge_key: "",
        strategy: Strategy::Unset,
        atomic: false,
        granular: false,
        required: false,
        inline: false,
        default: "",
    }
}

impl Field {
    pub(super) const fn list(mut self) -> Self {
        self.shape = Shape::List;
        self
    }
    pub(super) const fn map(mut self) -> Self {
        self.shape = Shape::Map;
        self
    }
    pub(super) const fn list_type(mut self, kind: ListKind, keys: &'static [&'static str]) -> Self {
        self.list_kind = kind;
        self.list_keys = keys;
        self
    }
    pub(super) const fn patch(mut self, strategy: Strategy, merge_key: &'static str) -> Self {
        self.strategy = strategy;
        self.merge_key = merge_key;
        self
    }
    pub(super) const fn atomic(mut self) -> Self {
        self.atomic = true;
        self
    }
    pub(super) const fn granular(mut self) -> Self {
        self.granular = true;
        self
    }
    pub(super) const fn required(mut self) -> Self {
        self.required = true;
        self
    }
    pub(super) const fn inline(mut self) -> Self {
        self.inline = true;
        self
    }
    pub(super) const fn default(mut self, text: &'static str) -> Self {
        self.default = text;
        self
    }
}
