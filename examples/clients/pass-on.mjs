// Loaded into supergateway, which drops the notifications that it hears: passes on what comes on its listening stream.

const { fetch } = globalThis;

async function passOn(body) {
  let text = "";
  for await (const chunk of body.pipeThrough(new TextDecoderStream())) {
    const lines = (text + chunk).split("\n");
    text = lines.pop();
    for (const line of lines) if (line.startsWith("data: {")) console.log(line.slice("data: ".length).trim());
  }
}

globalThis.fetch = async (url, options) => {
  const response = await fetch(url, options);
  if (options?.method !== "GET" || !response.ok) return response;
  const [theirs, ours] = response.body.tee();
  // A stream that breaks off is theirs to notice.
  passOn(ours).catch(() => {});
  return new Response(theirs, response);
};
