// Exec, logs and port-forward of the JavaScript client, against the pod `demo`.
import assert from 'node:assert/strict';
import net from 'node:net';
import { PassThrough } from 'node:stream';
import { text } from 'node:stream/consumers';
import * as k8s from '@kubernetes/client-node';

const config = new k8s.KubeConfig();
config.loadFromFile(process.argv[2]);
const collected = () => {
  const stream = new PassThrough();
  return [stream, text(stream)];
};

const [stdout, said] = collected();
const status = await new Promise((resolve, reject) => {
  new k8s.Exec(config).exec('default', 'demo', 'demo', ['sh', '-c', 'hostname'], stdout, null, null, false, resolve).catch(reject);
});
assert.equal(status.status, 'Success');
stdout.end();
assert.equal((await said).trim(), 'demo');

const failed = await new Promise((resolve, reject) => {
  new k8s.Exec(config).exec('default', 'demo', 'demo', ['sh', '-c', 'exit 3'], new PassThrough(), null, null, false, resolve).catch(reject);
});
assert.equal(failed.reason, 'NonZeroExitCode');
assert.equal(failed.details.causes[0].message, '3');

const log = new PassThrough();
await new k8s.Log(config).log('default', 'demo', 'demo', log, { follow: false });
assert.match(await text(log), /listening on :8080/);

const forward = new k8s.PortForward(config, true);
const server = net.createServer((socket) => forward.portForward('default', 'demo', [8080], socket, null, socket));
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const client = net.connect(server.address().port, '127.0.0.1');
client.write('GET /hostname HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n');
const answer = await new Promise((resolve, reject) => {
  let got = '';
  client.on('data', (piece) => { got += piece; if (got.includes('demo')) resolve(got); });
  client.on('error', reject);
});
assert.match(answer, /^HTTP\/1.1 200/);
console.log('exec, logs, port-forward: ok');
process.exit(0);
