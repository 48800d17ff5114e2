// @kubernetes/client-node: create from YAML, list, watch, informer, patches, pages, metrics-free
// helpers, and an exec that a node without containers refuses.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import * as k8s from '@kubernetes/client-node';

const config = new k8s.KubeConfig();
config.loadFromFile(process.argv[2]);
const namespace = 'javascript';
const core = config.makeApiClient(k8s.CoreV1Api);
const apps = config.makeApiClient(k8s.AppsV1Api);
const objects = k8s.KubernetesObjectApi.makeApiClient(config);

const refused = async (code, call) => {
  const error = await call().then(() => assert.fail('was not refused'), (error) => error);
  assert.equal(error.code, code, String(error));
  return error;
};
const within = (promise, what) => {
  let timer;
  const late = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error(`${what}: too late`)), 60000); });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
};

await core.createNamespace({ body: { metadata: { name: namespace } } });

async function fromYaml() {
  for (const spec of k8s.loadAllYaml(fs.readFileSync(process.argv[3], 'utf8'))) {
    spec.metadata.namespace = namespace;
    const created = await objects.create(spec);
    const read = await objects.read(created);
    assert.equal(read.metadata.uid, created.metadata.uid);
    read.metadata.labels = { ...read.metadata.labels, patched: 'yes' };
    const patch = { apiVersion: spec.apiVersion, kind: spec.kind, metadata: { name: spec.metadata.name, namespace, labels: { patched: 'yes' } } };
    const patched = await objects.patch(patch, undefined, undefined, undefined, undefined, k8s.PatchStrategy.StrategicMergePatch);
    assert.equal(patched.metadata.labels.patched, 'yes');
  }
  const found = await apps.listNamespacedDeployment({ namespace, labelSelector: 'patched=yes' });
  assert.deepEqual(found.items.map((item) => item.metadata.name), ['web']);
}

async function patches() {
  await core.createNamespacedConfigMap({ namespace, body: { metadata: { name: 'cm' }, data: { a: '1' } } });
  const patch = async (body, strategy, more = {}) => {
    const options = k8s.setHeaderOptions('Content-Type', strategy);
    return (await core.patchNamespacedConfigMap({ namespace, name: 'cm', body, ...more }, options)).data;
  };
  assert.deepEqual(await patch([{ op: 'add', path: '/data/b', value: '2' }], k8s.PatchStrategy.JsonPatch), { a: '1', b: '2' });
  assert.deepEqual(await patch({ data: { a: null } }, k8s.PatchStrategy.MergePatch), { b: '2' });
  assert.deepEqual(await patch({ data: { c: '3' } }, k8s.PatchStrategy.StrategicMergePatch), { b: '2', c: '3' });
  const applied = { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'cm' }, data: { c: '9' } };
  await refused(409, () => patch(applied, k8s.PatchStrategy.ServerSideApply, { fieldManager: 'javascript' }));
  const forced = await patch(applied, k8s.PatchStrategy.ServerSideApply, { fieldManager: 'javascript', force: true });
  assert.deepEqual(forced, { b: '2', c: '9' });
  await refused(404, () => core.readNamespacedConfigMap({ namespace, name: 'missing' }));
  await refused(422, () => core.createNamespacedConfigMap({ namespace, body: { metadata: { name: 'Not_A_Name' } } }));
}

async function pages() {
  const names = [];
  let token;
  do {
    const page = await core.listNamespacedConfigMap({ namespace, limit: 1, _continue: token });
    names.push(...page.items.map((item) => item.metadata.name));
    token = page.metadata._continue;
  } while (token);
  assert.deepEqual(names, ['cm', 'kube-root-ca.crt']);
}

async function watches() {
  const { metadata } = await core.listNamespacedSecret({ namespace });
  const watch = new k8s.Watch(config);
  const seen = [];
  await within(new Promise((resolve, reject) => {
    watch.watch(`/api/v1/namespaces/${namespace}/secrets`, { resourceVersion: metadata.resourceVersion, allowWatchBookmarks: true },
      (type, object) => {
        if (type !== 'BOOKMARK') seen.push([type, object.metadata.name]);
        if (type === 'DELETED') resolve();
      },
      (error) => error && error.type !== 'aborted' && reject(error),
    ).then(async () => {
      await core.createNamespacedSecret({ namespace, body: { metadata: { name: 's' } } });
      await core.replaceNamespacedSecret({ namespace, name: 's', body: { metadata: { name: 's' }, stringData: { a: '1' } } });
      await core.deleteNamespacedSecret({ namespace, name: 's' });
    }).catch(reject);
  }), 'the watch');
  assert.deepEqual(seen, [['ADDED', 's'], ['MODIFIED', 's'], ['DELETED', 's']]);
}

async function informer() {
  const list = () => core.listNamespacedPod({ namespace, labelSelector: 'app=web' });
  const pods = k8s.makeInformer(config, `/api/v1/namespaces/${namespace}/pods`, list, 'app=web');
  const gone = new Set();
  const ready = within(new Promise((resolve) => {
    const look = () => {
      const states = pods.list(namespace) ?? [];
      if (states.length === 2 && states.every((pod) => pod.status?.phase === 'Running')) resolve(states);
    };
    pods.on('add', look);
    pods.on('update', look);
    pods.on('delete', (pod) => gone.add(pod.metadata.name));
  }), 'two running pods');
  await pods.start();
  const running = await ready;
  await apps.patchNamespacedDeploymentScale(
    { namespace, name: 'web', body: { spec: { replicas: 0 } } }, k8s.setHeaderOptions('Content-Type', k8s.PatchStrategy.MergePatch));
  await within((async () => {
    while (gone.size < 2) await new Promise((resolve) => setImmediate(resolve));
  })(), 'the pods to go');
  assert.deepEqual([...gone].sort(), running.map((pod) => pod.metadata.name).sort());
  await pods.stop();
}

for (const part of [fromYaml, patches, pages, watches, informer]) await part();
await core.deleteNamespace({ name: namespace });
console.log('create from YAML, patches, pages, watch, informer: ok');
process.exit(0);
