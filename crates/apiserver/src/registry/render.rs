//! How a page of a list is written: item by item as the client takes them, in every form and
//! encoding, so that the whole answer never exists at once.

use std::sync::Arc;

use amphipod_api::codec;
use amphipod_api::protobuf::{ListFrame, Writer};
use amphipod_api::status::Status;
use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::list::Page;
use super::{encode, message_list, view};
use crate::body::{self, Body, BoxError};
use crate::cache::Entry;
use crate::context::Context;
use crate::http::negotiate::{Encoding, Form};

/// One chunk of a streamed list: large enough to cost few writes, small enough to keep memory flat.
const CHUNK_BYTES: usize = 64 << 10;
/// Protobuf tells lengths before content. Items encoded to learn their length are kept for the
/// second round up to this much; the rest is encoded again.
const KEPT_BYTES: usize = 4 << 20;
/// Items encoded before other requests get their turn on this thread.
const ITEMS_PER_TURN: usize = 64;

/// About how long a streamed answer will be, for the decision to compress.
#[derive(Clone, Copy, Debug)]
pub struct ExpectedSize(pub usize);

/// Writes a page in the form asked for.
pub async fn respond(cx: Arc<Context>, page: Page) -> Result<Response<Body>, Status> {
    let encoding = cx.accepted.encoding;
    let size = page.entries.iter().map(|e| e.text.len()).sum::<usize>();
    let content = match (encoding, view::stored_writer(&cx)) {
        (_, Some(writer)) => message_list::content(&cx.resource, writer, page).await?,
        (Encoding::Protobuf, None) => protobuf(cx, page).await?,
        _ => {
            let layout = Layout::new(&cx, &page)?;
            stream(Renderer::new(cx), page.entries.into_iter(), layout)
        }
    };
    let mut answer = view::response(StatusCode::OK, encoding.media_type(), content);
    answer.extensions_mut().insert(ExpectedSize(size));
    Ok(answer)
}

fn list_kind(cx: &Context) -> (String, String) {
    match cx.accepted.form {
        Form::Object => (cx.resource.kind.to_string(), cx.resource.api_version()),
        Form::PartialMetadata => ("PartialObjectMetadata".into(), cx.accepted.meta_version().into()),
        Form::Table => ("Table".into(), cx.accepted.meta_version().into()),
    }
}

/// What stands before, between and after the items, and how far each of their lines is moved in.
struct Layout {
    head: Bytes,
    before_each: &'static str,
    between: &'static str,
    first_indent: &'static str,
    indent: &'static str,
    tail: Bytes,
}

impl Layout {
    fn new(cx: &Context, page: &Page) -> Result<Self, Status> {
        let (kind, version) = list_kind(cx);
        let (kind, items) = match cx.accepted.form {
            Form::Table => (kind, "rows"),
            _ => (format!("{kind}List"), "items"),
        };
        let columns = (cx.accepted.form == Form::Table).then(|| view::columns(&cx.resource));
        let metadata = page.metadata();
        match (cx.accepted.encoding, cx.accepted.pretty) {
            (Encoding::Yaml, _) => {
                let mut fields = json!({"kind": kind, "apiVersion": version, "metadata": metadata});
                if let Some(columns) = columns {
                    fields["columnDefinitions"] = columns;
                }
                let empty = if page.entries.is_empty() { " []" } else { "" };
                let head = format!("{}{items}:{empty}\n", codec::yaml::to_string(&fields));
                Ok(Layout {
                    head: head.into(),
                    before_each: "",
                    between: "",
                    first_indent: "- ",
                    indent: "  ",
                    tail: Bytes::new(),
                })
            }
            (_, pretty) => {
                let mut fields =
                    vec![("kind", json!(kind)), ("apiVersion", json!(version)), ("metadata", metadata)];
                fields.extend(columns.map(|columns| ("columnDefinitions", columns)));
                let head = json_head(&fields, items, pretty)?;
                let (before_each, between, indent, tail) = match (pretty, page.entries.is_empty()) {
                    (false, _) => ("", ",", "", "]}"),
                    (true, true) => ("", "", "", "]\n}"),
                    (true, false) => ("\n", ",", "    ", "\n  ]\n}"),
                };
                let tail = Bytes::from_static(tail.as_bytes());
                Ok(Layout { head: head.into(), before_each, between, first_indent: indent, indent, tail })
            }
        }
    }
}

fn json_head(fields: &[(&str, Value)], items: &str, pretty: bool) -> Result<String, Status> {
    let (open, colon, end) = if pretty { ("{\n  ", ": ", ",\n  ") } else { ("{", ":", ",") };
    let mut head = open.to_owned();
    for (name, value) in fields {
        let text = if pretty {
            serde_json::to_string_pretty(value).map_err(Status::internal)?.replace('\n', "\n  ")
        } else {
            value.to_string()
        };
        head.push_str(&format!("\"{name}\"{colon}{text}{end}"));
    }
    head.push_str(&format!("\"{items}\"{colon}["));
    Ok(head)
}

/// Writes single items.
struct Renderer {
    cx: Arc<Context>,
    stored_form: bool,
    type_prefix: Vec<u8>,
}

impl Renderer {
    fn new(cx: Arc<Context>) -> Self {
        let stored_form = view::is_stored_form(&cx.resource);
        let type_prefix = encode::type_prefix(&cx.resource.kind, &cx.resource.api_version());
        Renderer { cx, stored_form, type_prefix }
    }

    fn item(&self, entry: &Entry, layout: &Layout, out: &mut BytesMut) -> Result<(), Status> {
        let accepted = self.cx.accepted;
        let text = match (accepted.encoding, accepted.pretty) {
            (Encoding::Yaml, _) => codec::yaml::to_string(&self.value(entry)?),
            (_, true) => serde_json::to_string_pretty(&self.value(entry)?).map_err(Status::internal)?,
            _ => return self.compact(entry, out),
        };
        // A line break is nothing but that in both: texts escape theirs or are blocks of lines.
        for (index, line) in text.trim_end_matches('\n').split('\n').enumerate() {
            if index > 0 {
                out.put_u8(b'\n');
            }
            let indent = if index == 0 { layout.first_indent } else { layout.indent };
            out.put_slice(if line.is_empty() { b"" } else { indent.as_bytes() });
            out.put_slice(line.as_bytes());
        }
        if accepted.encoding == Encoding::Yaml {
            out.put_u8(b'\n');
        }
        Ok(())
    }

    /// One item of the list as a value.
    fn value(&self, entry: &Entry) -> Result<Value, Status> {
        let mut value = view::served(&self.cx.resource, &entry.text.contiguous())?;
        Ok(match self.cx.accepted.form {
            Form::Object => {
                if let Some(fields) = value.as_object_mut() {
                    fields.remove("kind");
                    fields.remove("apiVersion");
                }
                value
            }
            Form::PartialMetadata => view::partial(value, self.cx.accepted),
            Form::Table => view::row(&self.cx, value),
        })
    }

    /// One item as protobuf.
    fn message(&self, entry: &Entry, writer: Writer) -> Result<Vec<u8>, Status> {
        let mut text = BytesMut::new();
        self.compact(entry, &mut text)?;
        writer.message(&text).map_err(Status::internal)
    }

    fn compact(&self, entry: &Entry, out: &mut BytesMut) -> Result<(), Status> {
        let accepted = self.cx.accepted;
        match (accepted.form, self.stored_form) {
            (Form::Object, true) => {
                let mut from = 0;
                if entry.text.starts_with(&self.type_prefix) {
                    from = self.type_prefix.len();
                    out.put_u8(b'{');
                }
                entry.text.chunks_in(from..entry.text.len()).for_each(|chunk| out.put_slice(chunk));
            }
            (Form::PartialMetadata, true) => view::partial_text(&entry.text.contiguous(), accepted, out),
            _ => serde_json::to_writer(out.writer(), &self.value(entry)?).map_err(Status::internal)?,
        }
        Ok(())
    }
}

/// The pull side of back pressure: a chunk is made when the connection asks for one.
fn stream(renderer: Renderer, entries: std::vec::IntoIter<Arc<Entry>>, layout: Layout) -> Body {
    let state = (renderer, entries, layout, true, true);
    body::stream(futures::stream::unfold(
        state,
        |(renderer, mut entries, layout, mut first, open)| async move {
            if !open {
                return None;
            }
            let mut out = BytesMut::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 4);
            if first {
                out.put_slice(&layout.head);
            }
            let mut open = true;
            while out.len() < CHUNK_BYTES {
                let Some(entry) = entries.next() else {
                    out.put_slice(&layout.tail);
                    open = false;
                    break;
                };
                out.put_slice(if first { b"" } else { layout.between.as_bytes() });
                out.put_slice(layout.before_each.as_bytes());
                first = false;
                if let Err(status) = renderer.item(&entry, &layout, &mut out) {
                    return Some((Err(BoxError::from(status)), (renderer, entries, layout, false, false)));
                }
            }
            Some((Ok(out.freeze()), (renderer, entries, layout, false, open)))
        },
    ))
}

/// An item on its way into a protobuf list.
enum Piece {
    Ready(Vec<u8>),
    /// Known by its length only.
    Later(Arc<Entry>),
}

/// Lists that are not what is stored: metadata only, or another version.
async fn protobuf(cx: Arc<Context>, page: Page) -> Result<Body, Status> {
    let (kind, version) = list_kind(&cx);
    let writer = Writer::new(&version, &kind).ok_or_else(|| Status::internal("no protobuf form"))?;
    let metadata = page.metadata();
    let renderer = Renderer::new(cx);
    let mut kept = 0;
    let mut sizes = Vec::with_capacity(page.entries.len());
    let mut pieces = Vec::with_capacity(page.entries.len());
    for (index, entry) in page.entries.into_iter().enumerate() {
        let bytes = renderer.message(&entry, writer)?;
        sizes.push(bytes.len());
        if kept + bytes.len() <= KEPT_BYTES {
            kept += bytes.len();
            pieces.push(Piece::Ready(bytes));
        } else {
            pieces.push(Piece::Later(entry));
        }
        if index % ITEMS_PER_TURN == ITEMS_PER_TURN - 1 {
            tokio::task::yield_now().await;
        }
    }
    let mut frame = ListFrame::new(&version, &format!("{kind}List"), &metadata, sizes.into_iter())
        .map_err(Status::internal)?;
    let head = Bytes::from(std::mem::take(&mut frame.head));
    let items = futures::stream::iter(pieces).map(move |piece| {
        let message = match piece {
            Piece::Ready(bytes) => bytes,
            Piece::Later(entry) => renderer.message(&entry, writer)?,
        };
        let mut out = Vec::with_capacity(message.len() + 8);
        frame.before_item(message.len(), &mut out);
        out.extend(message);
        Ok(out.into())
    });
    let head = futures::stream::once(futures::future::ready(Ok(head)));
    let tail = futures::stream::once(futures::future::ready(Ok(Bytes::from_static(ListFrame::TAIL))));
    Ok(body::stream(head.chain(gathered(items)).chain(tail)))
}

/// Small pieces joined into chunks worth a write.
fn gathered<S>(pieces: S) -> impl futures::Stream<Item = Result<Bytes, BoxError>> + Send
where
    S: futures::Stream<Item = Result<Bytes, BoxError>> + Send,
{
    futures::stream::unfold(Box::pin(pieces), |mut pieces| async move {
        let mut out = BytesMut::new();
        while out.len() < CHUNK_BYTES {
            match pieces.next().await {
                Some(Ok(piece)) => out.put_slice(&piece),
                Some(Err(error)) => return Some((Err(error), pieces)),
                None => break,
            }
        }
        (!out.is_empty()).then(|| (Ok(out.freeze()), pieces))
    })
}
