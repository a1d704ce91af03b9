// Follow Tocsin's events (Node 18 or later); a reconnect goes on where it was: none is missed, none comes twice.
export async function subscribe(url, key, handle, since) {
  for (;;) {
    try {
      const place = since === undefined ? {} : { "Last-Event-ID": String(since) };
      const answer = await fetch(`${url}/api/events`, { headers: { "X-API-Key": key, ...place } });
      if (!answer.ok) throw new Error(`HTTP ${answer.status}: ${await answer.text()}`);
      let text = "";
      for await (const piece of answer.body.pipeThrough(new TextDecoderStream())) {
        const blocks = (text + piece).split("\n\n");
        text = blocks.pop();
        for (const data of blocks.flatMap((block) => block.match(/^data: (.*)$/m)?.[1] ?? [])) {
          const frame = JSON.parse(data);
          for (const event of frame.events ?? []) handle(event);
          since = frame.to ?? since ?? frame.seq;
        }
      }
    } catch (error) { console.error(`cut off: ${error.message}`); }
    await new Promise((resolve) => setTimeout(resolve, 100 + 1900 * Math.random())); // not all clients at once
  }
}
const { TOCSIN_URL, TOCSIN_KEY } = process.env;
if (TOCSIN_URL) await subscribe(TOCSIN_URL, TOCSIN_KEY, (event) => console.log(JSON.stringify(event)));
