//! UPDATE: the one loop behind PUT, PATCH and the subresources that change their object. A new
//! object is computed from what is stored, checked, and written if nothing has changed meanwhile.

use amphipod_api::field::{Error as FieldError, Path};
use amphipod_api::object::{self, metadata_mut};
use amphipod_api::status::Status;
use amphipod_api::{apply, codec};
use amphipod_store::Revision;
use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::Value;

use super::{
    Existing, Lost, admit, create, existing, key, put_with, refuse_faults, remove, unwritten,
    validate_admission,
};
use super::{precondition_failed, view, writer};
use crate::body::Body;
use crate::context::Context;
use crate::seams::Operation;
use crate::server::ApiServer;
use crate::services;

/// How often a write without a precondition is computed again after a lost race. Upstream's patch
/// gives up after 5; under heavy contention more succeed and the bound still holds.
const ATTEMPTS: usize = 10;

/// Computes the new object from the stored one (in the request's version).
pub trait Change: Send + Sync {
    fn apply(&self, old: &Value) -> Result<Value, Status>;
    /// The object to create where nothing is stored; `None` refuses with 404.
    fn create(&self) -> Option<Result<Value, Status>> {
        None
    }
    /// The change carries its own managedFields.
    fn owns_fields(&self) -> bool {
        false
    }
    /// A resourceVersion must be given unless the kind is lenient (PUT).
    fn is_whole_object(&self) -> bool {
        false
    }
}

/// What came out.
pub struct Outcome {
    pub stored: Existing,
    pub created: bool,
}

struct Put {
    object: Value,
    create: bool,
}

impl Change for Put {
    fn apply(&self, _old: &Value) -> Result<Value, Status> {
        Ok(self.object.clone())
    }
    fn create(&self) -> Option<Result<Value, Status>> {
        self.create.then(|| Ok(self.object.clone()))
    }
    fn is_whole_object(&self) -> bool {
        true
    }
}

pub async fn update(server: &ApiServer, cx: &Context, body: Bytes) -> Result<Response<Body>, Status> {
    let decoded = codec::decode(&body, cx.content_type(), cx.expected(), cx.field_validation()?)?;
    for warning in decoded.warnings {
        cx.warn(warning);
    }
    let mut object = decoded.value;
    check_identity(cx, &mut object)?;
    let create = cx.strategy().allow_create_on_update() && cx.subresource().is_empty();
    let outcome = change(server, cx, &Put { object, create }).await?;
    respond(cx, &outcome)
}

pub fn respond(cx: &Context, outcome: &Outcome) -> Result<Response<Body>, Status> {
    let code = if outcome.created { StatusCode::CREATED } else { StatusCode::OK };
    view::stored_response(cx, code, &outcome.stored.text)
}

/// The body must be about the object of the URL; what it leaves out is filled in.
pub fn check_identity(cx: &Context, value: &mut Value) -> Result<(), Status> {
    check_name(cx, value)?;
    let namespace = object::namespace(value);
    if cx.resource.namespaced && !namespace.is_empty() && namespace != cx.namespace() {
        return Err(Status::bad_request(format!(
            "the namespace of the object ({namespace}) does not match the namespace on the request ({})",
            cx.namespace()
        )));
    }
    if cx.resource.namespaced {
        metadata_mut(value).insert("namespace".into(), cx.namespace().into());
    }
    Ok(())
}

/// An object is what its URL says.
pub fn check_name(cx: &Context, object: &Value) -> Result<(), Status> {
    let (name, wanted) = (object::name(object), cx.name());
    let why = match name {
        "" => format!(
            "the name of the object ({wanted} based on URL) was undeterminable: name must be provided"
        ),
        _ if name != wanted => {
            format!("the name of the object ({name}) does not match the name on the URL ({wanted})")
        }
        _ => return Ok(()),
    };
    Err(Status::bad_request(why))
}

/// Runs a change to its end: retries lost races where the request set no precondition.
pub async fn change(server: &ApiServer, cx: &Context, change: &dyn Change) -> Result<Outcome, Status> {
    let key = key(cx);
    let mut stored = existing(server, &cx.resource, &key).await?;
    for _ in 0..ATTEMPTS {
        let Some(current) = stored.take() else {
            let object = change.create().ok_or_else(|| cx.not_found())??;
            match create::insert(server, cx, object).await {
                Err(status) if status.has_reason("AlreadyExists") => {
                    stored = existing(server, &cx.resource, &key).await?;
                    continue;
                }
                other => return other.map(|stored| Outcome { stored, created: true }),
            }
        };
        match attempt(server, cx, change, &key, current).await {
            Ok(stored) => return Ok(Outcome { stored, created: false }),
            Err(Lost::Failed(status)) => return Err(*status),
            Err(Lost::Race(now)) => stored = now,
        }
    }
    Err(modified(cx))
}

fn modified(cx: &Context) -> Status {
    Status::modified(&cx.resource.group, &cx.resource.plural, cx.name())
}

async fn attempt(
    server: &ApiServer,
    cx: &Context,
    change: &dyn Change,
    key: &str,
    current: Existing,
) -> Result<Existing, Lost> {
    let dry_run = cx.dry_run()?;
    let old = current.value(&cx.resource)?;
    let mut new = change.apply(&old)?;
    let conditional = check_preconditions(cx, change, &new, &old, current.revision)?;
    metadata_mut(&mut new).insert("resourceVersion".into(), current.revision.to_string().into());
    cx.strategy().default(&mut new);
    if !change.owns_fields() {
        // What admission and strategies change after this has no owner.
        let (manager, version) = (cx.field_manager()?, cx.resource.api_version());
        apply::update_managers(Some(&old), &mut new, &writer(cx, &manager, &version));
    }
    let mut new = finish(server, cx, new, &old, dry_run).await?;
    let beside = services::allocate(server, cx, &mut new, Some(&old)).await?;
    check(cx, &new, &old)?;
    apply::keep_times(&old, &mut new);
    let new = validate_admission(server, cx, Operation::Update, new, Some(&old), dry_run).await?;
    let gone = is_finished(&new);
    let expected = current.revision;
    if dry_run {
        return Ok(Existing {
            text: unwritten(&cx.resource, new, current.revision)?,
            revision: current.revision,
        });
    }
    let written = if gone {
        let text = unwritten(&cx.resource, new, current.revision)?;
        let beside = services::release(server, &cx.resource, &old).await?;
        remove(server, &cx.resource, key, current.revision, beside)
            .await
            .map(|()| Existing { text, revision: current.revision })
    } else if new == old {
        return Ok(current);
    } else {
        put_with(server, &cx.resource, key, new, current.revision, beside).await
    };
    match written {
        Err(Lost::Race(now)) if conditional && now.as_ref().map(|n| n.revision) != Some(expected) => {
            Err(Lost::from(modified(cx)))
        }
        other => other,
    }
}

/// Whether the request insists on the version it names.
fn check_preconditions(
    cx: &Context,
    change: &dyn Change,
    new: &Value,
    old: &Value,
    revision: Revision,
) -> Result<bool, Status> {
    let (uid, old_uid) = (object::uid(new), object::uid(old));
    if !uid.is_empty() && uid != old_uid {
        let why = precondition_failed(&key(cx), "UID", uid, old_uid);
        return Err(Status::conflict(&cx.resource.group, &cx.resource.plural, cx.name(), &why));
    }
    let given = object::resource_version(new);
    // What a patch starts from carries the stored version: only another one is a precondition.
    if given.is_empty() || given == "0" {
        if change.is_whole_object() && !cx.strategy().allow_unconditional_update() {
            let path = Path::new("metadata.resourceVersion");
            let fault = FieldError::invalid(&path, 0, "must be specified for an update");
            // Upstream's storage knows the resource, not its kind.
            return Err(Status::invalid(&cx.resource.group, &cx.resource.plural, cx.name(), &[fault]));
        }
        return Ok(false);
    }
    if given != revision.to_string() {
        return Err(modified(cx));
    }
    Ok(change.is_whole_object())
}

/// Admission, what the write may not touch, and defaults.
async fn finish(
    server: &ApiServer,
    cx: &Context,
    new: Value,
    old: &Value,
    dry_run: bool,
) -> Result<Value, Status> {
    let (strategy, context) = (cx.strategy(), cx.strategy_context());
    let mut new = admit(server, cx, Operation::Update, new, Some(old), dry_run).await?;
    strategy.prepare_update(&context, &mut new, old);
    strategy.default(&mut new);
    metadata_mut(&mut new).remove("selfLink");
    Ok(new)
}

fn check(cx: &Context, new: &Value, old: &Value) -> Result<(), Status> {
    let (strategy, context) = (cx.strategy(), cx.strategy_context());
    let (stored, stored_old) = (view::stored_form(&cx.resource, new), view::stored_form(&cx.resource, old));
    refuse_faults(cx, new, &strategy.validate_update(&context, &stored, &stored_old))?;
    for text in strategy.warnings(&context, new, Some(old)) {
        cx.warn(text);
    }
    Ok(())
}

/// The last finalizer is gone from an object whose deletion nothing else delays.
pub fn is_finished(value: &Value) -> bool {
    let grace = value.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0);
    let held_by_spec = object::kind(value) == "Namespace"
        && value.pointer("/spec/finalizers").and_then(Value::as_array).is_some_and(|l| !l.is_empty());
    object::deletion_timestamp(value).is_some()
        && object::finalizers(value).is_empty()
        && grace == 0
        && !held_by_spec
}
