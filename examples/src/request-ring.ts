/**
 * The ring library by itself, without a store or a device: two domains of a loopback hypervisor share one page with a
 * request ring, and an event channel. One sends numbers, the other answers with their squares.
 */
import { BackRing, FrontRing } from '@pvkit/ring';
import { LoopbackHypervisor } from '@pvkit/ring/loopback';

const SLOT_BYTES = 16;
const SLOT_WORDS = SLOT_BYTES / 4;
const COUNT = 1000;

const hypervisor = LoopbackHypervisor.create('example');
const server = hypervisor.openPlatform(hypervisor.createDomain());
const client = hypervisor.openPlatform(hypervisor.createDomain());

// The client grants a page with an empty ring on it, and offers a port.
const page = client.grants.share(server.identity.domid, 1, 'read-write');
const front = FrontRing.create(page, SLOT_BYTES);
const clientPort = client.events.allocateUnbound(server.identity.domid);
console.log(`a ring of ${front.size} slots; grant reference ${page.references[0]}, event channel ${clientPort}`);

// The server, told of both numbers (by xenstore, elsewhere), maps the page and binds the port.
const mapped = server.grants.map(client.identity.domid, page.references, 'read-write');
const back = BackRing.attach(mapped, SLOT_BYTES);
const serverPort = server.events.bindInterdomain(client.identity.domid, clientPort);
let wakeUps = 0;
const request = new Int32Array(SLOT_WORDS);
server.events.listen(serverPort, () => {
  wakeUps++;
  do {
    // `request` is a copy: nothing that the other side does now can change it.
    while (back.take(request)) back.put(Int32Array.of(request[0]!, request[1]! ** 2));
    if (back.push()) server.events.notify(serverPort);
  } while (back.finalCheck()); // asks to be woken, unless more has come
  server.events.unmask(serverPort);
});

// The client keeps the ring full until everything is answered.
const response = new Int32Array(SLOT_WORDS);
let [sent, answered, sum] = [0, 0, 0];
await new Promise<void>((resolve) => {
  const work = (): void => {
    do {
      while (front.take(response)) {
        answered++;
        sum += response[1]!;
      }
      for (; front.free > 0 && sent < COUNT; sent++) front.put(Int32Array.of(sent, sent, 0, 0));
      if (front.push()) client.events.notify(clientPort);
    } while (front.finalCheck());
    client.events.unmask(clientPort);
    if (answered === COUNT) resolve();
  };
  client.events.listen(clientPort, work);
  work();
});
console.log(`${answered} answers, the sum of the squares is ${sum}; the server was woken ${wakeUps} times`);
if (sum !== ((COUNT - 1) * COUNT * (2 * COUNT - 1)) / 6) throw new Error('which is wrong');

server.close();
console.log(`nothing is mapped any more: ${page.endAccess()}`);
client.close();
