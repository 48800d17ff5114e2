//! The controller while its cache is behind what it and others wrote.

use amphipod_client::ListParams;
use serde_json::json;

use super::*;
use crate::testing::{World, eventually};

const SERVICE: &str = "ns/web";

/// A controller that has made the slice of a service, of which its cache does not tell it.
async fn start(world: &World) -> SliceController {
    let controller = SliceController::new(world.scope());
    assert!(controller.synced().await);
    world.hold("endpointslices?watch");
    let spec = json!({"selector": {"app": "web"}, "ports": [{"port": 80}]});
    world.create::<Service>("ns", json!({"metadata": {"name": "web"}, "spec": spec})).await;
    eventually("the service is known", async || controller.services.get(SERVICE)).await;
    controller.sync(SERVICE).await.unwrap();
    controller
}

async fn slices(world: &World) -> Vec<EndpointSlice> {
    world.api("ns").list(&ListParams::default()).await.unwrap().1
}

#[tokio::test]
async fn a_slice_is_made_once() {
    let world = World::with_namespace("ns").await;
    let controller = start(&world).await;
    let error = controller.sync(SERVICE).await.expect_err("the cache is behind");
    assert!(matches!(error, Error::Stale(_)), "{error}");
    world.pass("endpointslices?watch");
    let known = async || (controller.slices.list().len() == 1).then_some(());
    eventually("the slice is known", known).await;
    controller.sync(SERVICE).await.unwrap();
    assert_eq!(slices(&world).await.len(), 1);
}

#[tokio::test]
async fn a_slice_that_goes_before_it_is_heard_of_is_made_again() {
    let world = World::with_namespace("ns").await;
    let controller = start(&world).await;
    let made = slices(&world).await.remove(0);
    world.api::<EndpointSlice>("ns").delete(made.name(), &DeleteParams::default()).await.unwrap();
    controller.sync(SERVICE).await.unwrap();
    let again = slices(&world).await.remove(0);
    assert_ne!(again.uid(), made.uid());
}
