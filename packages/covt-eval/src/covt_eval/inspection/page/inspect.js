"use strict";

const byId = (id) => document.getElementById(id);
const state = { settings: null, pictures: [], custom: true, result: null, chosen: 0, controller: null, key: "" };

// Elements are built, never parsed: no text of a model, a row or a file becomes markup.
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "style") for (const [rule, text] of Object.entries(value)) made.style.setProperty(rule, text);
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

function drawing(name, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// Light and dark: the system's choice until the reader takes another.
byId("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});

// --- The server ---------------------------------------------------------------------------------------------------

class RefusedError extends Error {}

async function call(path, options = {}) {
  const headers = { ...options.headers };
  if (state.key) headers.Authorization = `Bearer ${state.key}`;
  const answer = await fetch(path, { ...options, headers });
  if (answer.status === 401) {
    byId("key-form").hidden = false;
    throw new RefusedError("This server asks for an API key.");
  }
  if (!answer.ok) {
    const body = await answer.json().catch(() => ({}));
    throw new RefusedError(body.error?.message || body.error || `The server answered with status ${answer.status}.`);
  }
  return answer;
}

function fail(error) {
  if (error.name === "AbortError") return say("Stopped.");
  const gone = !(error instanceof RefusedError);
  byId("alert").textContent = gone ? "The server does not answer. Start it again with covt serve MODEL --page; this page waits for it." : error.message;
  say("");
  if (gone) waitForServer();
}

let waiting = null;
function waitForServer() {
  waiting ??= setInterval(async () => {
    try {
      if (!(await fetch("/health")).ok) return;
    } catch {
      return;
    }
    clearInterval(waiting);
    waiting = null;
    byId("alert").textContent = "";
    say("The server is back.");
    if (!state.settings) begin();
  }, 1500);
}

function say(text, busy = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("busy", busy);
  byId("ask").disabled = busy;
  byId("stop").hidden = !busy;
}

async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new TypeError("the stream has no end");
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const data = block.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

// --- The question -------------------------------------------------------------------------------------------------

async function begin() {
  try {
    const settings = await (await call("/covt/inspect")).json();
    state.settings = settings;
    byId("key-form").hidden = true;
    byId("alert").textContent = "";
    byId("model").textContent = settings.model;
    byId("max-tokens").max = settings.limits.max_tokens;
    byId("max-tokens").value = Math.min(256, settings.limits.max_tokens);
    byId("samples").max = settings.limits.samples;
    if (!settings.set) return;
    byId("set").textContent = `${settings.set.name}, ${settings.set.split}`;
    const options = settings.set.rows.map((row) => element("option", { value: row.index }, `${row.index} · ${row.id} · ${row.question}`));
    byId("row").replaceChildren(element("option", { value: "" }, "none: a question of your own"), ...options);
    byId("row-field").hidden = false;
    byId("row").value = "0";
    await showRow();
  } catch (error) {
    fail(error);
  }
}

async function showRow() {
  const index = byId("row").value;
  if (index === "") return;
  const row = await (await call(`/covt/rows/${index}`)).json();
  byId("question").value = row.question;
  setPictures(row.pictures);
  state.custom = false;
}

function setPictures(sources) {
  state.pictures = sources;
  byId("previews").replaceChildren(
    ...sources.map((source, number) => {
      const picture = element("img", { alt: `Picture ${number + 1}`, src: source });
      picture.addEventListener("load", () => picture.classList.toggle("crisp", picture.naturalWidth < 200));
      return picture;
    }),
  );
}

const makeOwn = () => {
  state.custom = true;
  if (byId("row").options.length) byId("row").value = "";
};

function readFile(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new RefusedError(`${file.name} can't be read.`));
    reader.readAsDataURL(file);
  });
}

async function takeFiles(files) {
  try {
    const most = state.settings?.limits.pictures ?? 1;
    const large = [...files].find((file) => file.size > 16 << 20);
    if (large) throw new RefusedError(`${large.name} has more than 16 MiB.`);
    if (files.length > most) throw new RefusedError(`The server takes ${most} pictures at once.`);
    setPictures(await Promise.all([...files].map(readFile)));
    byId("alert").textContent = "";
    makeOwn();
  } catch (error) {
    fail(error);
  }
}

byId("file").addEventListener("change", (event) => takeFiles(event.target.files));
for (const kind of ["dragover", "dragleave", "drop"]) {
  byId("drop").addEventListener(kind, (event) => {
    event.preventDefault();
    byId("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) takeFiles(event.dataTransfer.files);
  });
}
document.addEventListener("paste", (event) => {
  if (event.clipboardData?.files.length) takeFiles(event.clipboardData.files);
});
byId("question").addEventListener("input", makeOwn);
byId("row").addEventListener("change", () => showRow().catch(fail));
byId("stop").addEventListener("click", () => state.controller?.abort());
byId("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("form").requestSubmit();
});
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  state.key = byId("key").value;
  begin();
});

byId("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (byId("ask").disabled) return;
  state.controller = new AbortController();
  byId("alert").textContent = "";
  const body = state.custom
    ? { question: byId("question").value, pictures: state.pictures }
    : { row: Number(byId("row").value) };
  Object.assign(body, {
    samples: Number(byId("samples").value), temperature: Number(byId("temperature").value),
    max_tokens: Number(byId("max-tokens").value), stream: true,
  });
  clear();
  say("Asking …", true);
  try {
    const headers = { "Content-Type": "application/json" };
    const answer = await call("/covt/inspect", { method: "POST", headers, body: JSON.stringify(body), signal: state.controller.signal });
    for await (const part of events(answer)) take(part);
  } catch (error) {
    fail(error);
  }
});

// --- The answer ---------------------------------------------------------------------------------------------------

function clear() {
  state.result = { sources: [...state.pictures], tokens: [], ablations: [], latents: [], helpers: [] };
  state.chosen = 0;
  for (const id of ["latents", "ablations", "sampled", "results"]) byId(id).hidden = true;
  for (const id of ["answer", "verdict", "strips", "detail", "pictures", "switch", "kept", "other", "cards", "agreement"]) byId(id).replaceChildren();
  byId("modes").tBodies[0].replaceChildren();
}

function take(part) {
  const result = state.result;
  if (part.event === "error") throw new RefusedError(part.error.message);
  if (part.event === "question") {
    Object.assign(result, { pictures: part.pictures, row: part.row });
    byId("results").hidden = false;
  } else if (part.event === "tokens") {
    result.tokens.push(...part.tokens);
    byId("answer").replaceChildren(...said(result.tokens));
    say(`Answering, ${result.tokens.length} tokens …`, true);
  } else if (part.event === "answer") {
    result.answer = part.answer;
    byId("answer").replaceChildren(...said(part.answer.tokens));
    byId("verdict").replaceChildren(...verdict(part.answer), `, ${part.answer.token_count} tokens, log p ${number(part.answer.logprob)}`);
    if (result.row) byId("verdict").append(`; expected ${result.row.gold}`);
    say("Reading the latents …", true);
  } else if (part.event === "latents") {
    Object.assign(result, { latents: part.latents, helpers: part.helpers });
    showLatents(part.unread);
    say("Asking again without them …", true);
  } else if (part.event === "ablation") {
    result.ablations.push(part.ablation);
    showAblations();
  } else if (part.event === "samples") {
    showSamples(part.samples);
  } else if (part.event === "done") {
    say(`Done in ${part.seconds.toFixed(1)} s.`);
  }
}

const number = (value, digits = 2) =>
  value === null ? "–" : value.toFixed(digits).replace(/^-(?=0\.?0*$)/, "").replace("-", "−");

// White space that a reader could not see otherwise.
const visible = (text) => (text.trim() ? text : text.replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll(" ", "␣"));

// Text with a chip for each latent span; tokens of one kind that follow each other are one piece.
function said(tokens) {
  const pieces = [];
  let chip = null;
  for (const token of tokens) {
    if (token.kind === "start") {
      chip = element("span", { class: "chip", role: "img", "aria-label": "latent span" });
      pieces.push(chip);
    } else if (token.kind === "pad") {
      chip?.append(element("i"));
    } else if (token.kind === "end") {
      chip = null;
    } else if (!/^<\|.*\|>$/.test(token.text)) {
      const piece = element("span", { title: `${JSON.stringify(token.text)}, log p ${number(token.logprob, 3)}` }, token.text);
      pieces.push(piece);
    }
  }
  return pieces;
}

function verdict(answer) {
  const final = element("b", {}, answer.final || "no final answer");
  if (answer.right === null) return [final];
  const full = answer.right === 1;
  return [final, " ", element("span", { class: full ? "good" : "poor" }, full ? "✓ right" : answer.right > 0 ? `partly right, ${number(answer.right)}` : "✗ wrong")];
}

// --- Latents ------------------------------------------------------------------------------------------------------

function crop(source, size, box) {
  const [x0, y0, x1, y1] = box;
  const picture = drawing("image", { href: source, width: size.width, height: size.height, preserveAspectRatio: "none" });
  const made = drawing("svg", { viewBox: `${x0} ${y0} ${x1 - x0} ${y1 - y0}`, "aria-hidden": "true" }, picture);
  if (size.width < 200) made.classList.add("crisp");
  return made;
}

function showLatents(unread) {
  const { latents, pictures, sources } = state.result;
  if (!latents.length) {
    byId("latents").hidden = true;
    byId("verdict").append("; it has no latents that could be read");
    return;
  }
  byId("pictures").replaceChildren(
    ...pictures.map((size, index) => {
      const image = drawing("image", { href: sources[index], width: size.width, height: size.height, preserveAspectRatio: "none" });
      const frame = drawing("svg", { viewBox: `0 0 ${size.width} ${size.height}`, role: "img", "aria-label": `Picture ${index + 1} with the nearest patches` }, image, drawing("g", {}));
      if (size.width < 200) frame.classList.add("crisp");
      return element("figure", {}, frame, element("figcaption", {}, `${size.width} × ${size.height} pixels, ${size.columns} × ${size.rows} patches`));
    }),
  );
  const highest = Math.max(...latents.map((latent) => latent.norm)) || 1;
  const spans = [...new Set(latents.map((latent) => latent.span))];
  byId("strips").replaceChildren(
    ...spans.flatMap((span) => {
      const cells = latents.map((latent, index) => [latent, index]).filter(([latent]) => latent.span === span);
      const strip = element("div", { class: "strip", role: "listbox", "aria-label": `Latents of span ${span + 1}`, "aria-orientation": "horizontal" });
      strip.append(...cells.map(([latent, index]) => cell(latent, index, highest)));
      const name = element("p", { class: "span-name" }, `Span ${span + 1} of ${spans.length}, ${cells.length} latents`);
      return [name, strip];
    }),
  );
  if (unread) byId("strips").append(element("p", { class: "soft" }, `${unread} later latents are not shown.`));
  byId("latents").hidden = false;
  choose(0, false);
}

// The patch that a latent resembles most, of the question's pictures or of helper pictures.
function likest(latent) {
  const { pictures, sources, helpers } = state.result;
  const [patch, helped] = [latent.patches[0], latent.helpers[0]];
  if (helped && !(patch?.cosine >= helped.cosine)) {
    const helper = helpers.find((one) => one.helper === helped.helper);
    return { ...helped, source: helper.source, size: helper, what: "helper patch" };
  }
  return patch && { ...patch, source: sources[patch.picture], size: pictures[patch.picture], what: "patch" };
}

function cell(latent, index, highest) {
  const best = likest(latent);
  const words = visible(latent.words[0]?.text ?? "");
  const label = `Latent ${latent.cell + 1}: norm ${number(latent.norm)}${best ? `, nearest ${best.what} at cosine ${number(best.cosine)}` : ""}, word ${words}`;
  const made = element("div", { class: "cell", role: "option", "aria-selected": "false", tabindex: "-1", "aria-label": label, "data-index": index });
  made.append(best ? crop(best.source, best.size, best.box) : element("i", { class: "blank" }));
  made.append(
    element("i", { class: "norm", style: { display: "block", width: `${(100 * latent.norm) / highest}%` } }),
    element("span", {}, best ? number(best.cosine) : number(latent.norm, 1)),
    element("span", { class: "soft" }, words),
  );
  made.addEventListener("click", () => choose(index));
  made.addEventListener("keydown", (event) => {
    const last = state.result.latents.length - 1;
    const moves = { ArrowLeft: index - 1, ArrowUp: index - 1, ArrowRight: index + 1, ArrowDown: index + 1, Home: 0, End: last, Enter: index, " ": index };
    if (!(event.key in moves)) return;
    event.preventDefault();
    choose(Math.min(Math.max(moves[event.key], 0), last));
  });
  return made;
}

function choose(index, focus = true) {
  state.chosen = index;
  for (const one of document.querySelectorAll(".cell")) {
    const chosen = Number(one.dataset.index) === index;
    one.setAttribute("aria-selected", String(chosen));
    one.tabIndex = chosen ? 0 : -1;
    if (chosen && focus) one.focus();
  }
  drawPatches(state.result.latents[index]);
  byId("detail").replaceChildren(detail(state.result.latents[index]));
}

function drawPatches(latent) {
  document.querySelectorAll("#pictures svg g").forEach((layer, picture) => {
    layer.replaceChildren(
      ...latent.patches.filter((patch) => patch.picture === picture).reverse().flatMap((patch) => {
        const [x0, y0, x1, y1] = patch.box;
        const place = { x: x0, y: y0, width: x1 - x0, height: y1 - y0 };
        const first = patch === latent.patches[0];
        return [drawing("rect", { ...place, class: "halo" }), drawing("rect", { ...place, class: first ? "patch" : "patch later" })];
      }),
    );
  });
}

function detail(latent) {
  const { pictures, sources, helpers } = state.result;
  const fact = (name, value) => element("div", {}, element("dt", {}, name), element("dd", {}, value));
  const like = (picture, box, source, size, note) => element("li", { title: note }, crop(source, size, box), number(picture.cosine));
  const groups = element("div", { class: "groups" });
  const add = (title, list) => groups.append(element("div", {}, element("h4", {}, title), list));
  if (latent.patches.length) {
    add("Nearest patches", element("ul", { class: "likes" }, ...latent.patches.map((one) => like(one, one.box, sources[one.picture], pictures[one.picture], `picture ${one.picture + 1}`))));
  }
  if (latent.helpers.length) {
    const found = Object.fromEntries(helpers.map((helper) => [helper.helper, helper]));
    const items = latent.helpers.map((one) => {
      const helper = found[one.helper];
      const item = like(one, one.box, helper.source, helper, `row ${helper.row}`);
      item.append(element("br"), helper.own ? "this row" : "another row");
      return item;
    });
    add("Nearest helper patches", element("ul", { class: "likes" }, ...items));
  }
  add("Nearest words", element("ol", { class: "words" }, ...latent.words.map((word) =>
    element("li", { style: { "--p": word.probability } }, element("b", {}, visible(word.text) || `token ${word.id}`), element("span", {}, `${(100 * word.probability).toFixed(1)} %`)))));
  return element("div", { class: "detail" },
    element("h3", {}, `Latent ${latent.cell + 1} of span ${latent.span + 1}`),
    element("dl", {}, fact("norm", number(latent.norm)), fact("cosine to the one before", number(latent.cosine_previous)), fact("to the one behind", number(latent.cosine_next))),
    groups);
}

// --- Ablations and samples ----------------------------------------------------------------------------------------

function showAblations() {
  const [kept, ...others] = state.result.ablations;
  if (kept.skipped) {
    byId("ablations").hidden = true;
    return;
  }
  byId("ablations").hidden = false;
  byId("kept").replaceChildren(...ablationCard(kept, kept));
  const group = byId("switch");
  const before = group.querySelector("[aria-checked=true]")?.dataset.mode;
  group.replaceChildren(...others.map((one) => {
    const button = element("button", { type: "button", role: "radio", "aria-checked": "false", tabindex: "-1", "data-mode": one.mode }, one.label);
    button.addEventListener("click", () => compare(one.mode));
    return button;
  }));
  byId("modes").tBodies[0].replaceChildren(...state.result.ablations.map((one) => modeRow(one, kept)));
  const first = others.find((one) => one.mode === before) ?? others.find((one) => !one.skipped) ?? others[0];
  if (first) compare(first.mode, false);
}

byId("switch").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const buttons = [...byId("switch").children];
  const at = buttons.findIndex((one) => one.getAttribute("aria-checked") === "true");
  compare(buttons[(at + step + buttons.length) % buttons.length].dataset.mode, true);
});

function compare(mode, focus = true) {
  for (const button of byId("switch").children) {
    const chosen = button.dataset.mode === mode;
    button.setAttribute("aria-checked", String(chosen));
    button.tabIndex = chosen ? 0 : -1;
    if (chosen && focus) button.focus();
  }
  const [kept, ...others] = state.result.ablations;
  byId("other").replaceChildren(...ablationCard(others.find((one) => one.mode === mode), kept));
}

function ablationCard(one, kept) {
  const title = element("h3", {}, one.label, " ", element("span", { class: "soft" }, one.description));
  if (one.skipped) return [title, element("p", { class: "soft" }, one.skipped)];
  const score = `the kept answer's log p ${number(one.kept_logprob)} over ${one.kept_tokens} tokens`;
  const change = one === kept ? "" : `, ${number(one.kept_logprob - kept.kept_logprob)} against kept`;
  return [
    title, element("p", {}, ...verdict(one)), element("p", { class: "said" }, one.text || "(no text)"),
    element("p", { class: "soft" }, score + change + (one.donor ? `; latents of ${one.donor}` : "")),
  ];
}

function modeRow(one, kept) {
  if (one.skipped) return element("tr", {}, element("td", {}, one.label), element("td", { class: "soft" }, "not asked"), element("td", {}, "–"), element("td", {}, "–"));
  const change = one === kept ? "" : number(one.kept_logprob - kept.kept_logprob);
  return element("tr", {}, element("td", {}, one.label), element("td", {}, ...verdict(one)), element("td", {}, number(one.kept_logprob)), element("td", {}, change));
}

function showSamples(samples) {
  const same = (text) => text.replace(/\s+/g, "").toLowerCase();
  const agreeing = Math.round(samples.agreement * samples.answers.length);
  byId("agreement").replaceChildren(`${agreeing} of ${samples.answers.length} samples at temperature ${samples.temperature} agree on `, element("b", {}, samples.majority || "no final answer"), ".");
  byId("cards").replaceChildren(...samples.answers.map((one, index) => {
    const agrees = same(one.final) === same(samples.majority);
    const spans = one.spans.length === 1 ? "1 latent span" : `${one.spans.length} latent spans`;
    return element("article", { class: agrees ? "card" : "card apart" },
      element("h3", {}, `Sample ${index + 1}`), element("p", {}, ...verdict(one)), element("p", { class: "said" }, one.text || "(no text)"),
      element("p", { class: "soft" }, `${spans}, log p ${number(one.logprob)}${agrees ? "" : ", disagrees"}`));
  }));
  byId("sampled").hidden = false;
}

begin();
