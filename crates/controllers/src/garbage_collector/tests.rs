//! The collector beside a server whose news and answers come late.

use amphipod_client::Resource;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};

use super::*;
use crate::testing::{World, eventually};

const NOBODY: &str = "11111111-2222-3333-4444-555555555555";

async fn until_gone<K: Resource>(world: &World, name: &str) {
    let api = world.api::<K>("ns");
    let gone = async || api.get_opt(name).await.unwrap().is_none().then_some(());
    eventually(&format!("{name} is gone"), gone).await;
}

fn reference(name: &str, uid: &str) -> serde_json::Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid})
}

async fn secret_of(world: &World, name: &str, owner: &str) {
    let owner = reference("owner", owner);
    world.create::<Secret>("ns", json!({"metadata": {"name": name, "ownerReferences": [owner]}})).await;
}

/// The collector deletes the owner's dependent, or lets it go; but what it asks for `held` is answered only
/// after the dependent has other owners.
async fn given_owners_meanwhile(
    world: &World,
    propagation: &'static str,
    held: &'static str,
    owners: &[serde_json::Value],
) {
    world.hold(held);
    delete(world, "owner", propagation).await;
    world.until_held(held).await;
    let patch = Patch::Merge(json!({"metadata": {"ownerReferences": owners}}));
    world.api::<Secret>("ns").patch("dependent", &patch).await.unwrap();
}

/// The collector has heard, and done, what came before: of config maps and of secrets.
async fn until_heard(world: &World, name: &str) {
    let lost = json!({"metadata": {"name": name, "ownerReferences": [reference("nobody", NOBODY)]}});
    world.create::<ConfigMap>("ns", lost.clone()).await;
    until_gone::<ConfigMap>(world, name).await;
    world.create::<Secret>("ns", lost).await;
    until_gone::<Secret>(world, name).await;
}

async fn delete(world: &World, owner: &str, propagation: &'static str) {
    let params = DeleteParams { propagation: Some(propagation), ..DeleteParams::default() };
    world.api::<ConfigMap>("ns").delete(owner, &params).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orphan_the_graph_has_not_heard_of_stays() {
    let world = World::with_namespace("ns").await;
    tokio::spawn(run(world.scope()));
    secret_of(&world, "first", NOBODY).await;
    until_gone::<Secret>(&world, "first").await;
    world.hold("secrets?watch");
    let owner = world.create::<ConfigMap>("ns", json!({"metadata": {"name": "owner"}})).await;
    secret_of(&world, "orphan", owner.uid()).await;
    delete(&world, "owner", "Orphan").await;
    until_gone::<ConfigMap>(&world, "owner").await;
    let let_go = world.api::<Secret>("ns").get("orphan").await.unwrap();
    assert_eq!(let_go.metadata.owner_references, None);
    world.pass("secrets?watch");
    secret_of(&world, "last", NOBODY).await;
    until_gone::<Secret>(&world, "last").await;
    world.api::<Secret>("ns").get("orphan").await.unwrap();
}

/// A list that was answered before a dependent changed its owner, and comes after the news of it.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_list_hides_no_newer_owner() {
    let world = World::with_namespace("ns").await;
    tokio::spawn(run(world.scope()));
    let owner = world.create::<ConfigMap>("ns", json!({"metadata": {"name": "owner"}})).await;
    let heir = world.create::<ConfigMap>("ns", json!({"metadata": {"name": "heir"}})).await;
    secret_of(&world, "dependent", owner.uid()).await;
    until_heard(&world, "first").await;

    given_owners_meanwhile(&world, "Orphan", "secrets", &[reference("heir", heir.uid())]).await;
    until_heard(&world, "second").await;
    world.pass("secrets");
    until_gone::<ConfigMap>(&world, "owner").await;
    until_heard(&world, "third").await;

    delete(&world, "heir", "Background").await;
    until_gone::<Secret>(&world, "dependent").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dependent_that_changes_while_it_is_let_go_is_not_looked_for_again() {
    let world = World::with_namespace("ns").await;
    tokio::spawn(run(world.scope()));
    let owner = world.create::<ConfigMap>("ns", json!({"metadata": {"name": "owner"}})).await;
    secret_of(&world, "dependent", owner.uid()).await;
    until_heard(&world, "first").await;

    world.hold("secrets/dependent");
    delete(&world, "owner", "Orphan").await;
    world.until_held("secrets/dependent").await;
    let patch = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
    world.api::<Secret>("ns").patch("dependent", &patch).await.unwrap();
    world.hold("secrets");
    world.pass("secrets/dependent");
    until_gone::<ConfigMap>(&world, "owner").await;
    let let_go = world.api::<Secret>("ns").get("dependent").await.unwrap();
    assert_eq!(let_go.metadata.owner_references, None);
}

/// Judged before it got an owner that stays, deleted after that.
#[tokio::test(flavor = "multi_thread")]
async fn who_gets_another_owner_while_it_is_judged_stays() {
    let world = World::with_namespace("ns").await;
    tokio::spawn(run(world.scope()));
    let going = world.create::<ConfigMap>("ns", json!({"metadata": {"name": "owner"}})).await;
    let heir = world.create::<ConfigMap>("ns", json!({"metadata": {"name": "heir"}})).await;
    secret_of(&world, "dependent", going.uid()).await;
    until_heard(&world, "first").await;

    let both = [reference("owner", going.uid()), reference("heir", heir.uid())];
    given_owners_meanwhile(&world, "Background", "secrets/dependent", &both).await;
    world.pass("secrets/dependent");
    let left = async || {
        let owners = world.api::<Secret>("ns").get("dependent").await.unwrap().metadata.owner_references;
        owners.filter(|owners| owners.len() == 1)
    };
    assert_eq!(eventually("the owner that is gone is left out", left).await[0].name, "heir");
}
