// Elements, numbers and texts. Texts of answers become elements in one place only, `rendered`.

/** Return an element; properties that begin with "on" are listeners. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made && !name.includes("-")) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export const byId = (id) => document.getElementById(id);

const markdown = window.markdownit({ html: false, linkify: false, breaks: true }).disable("image");
const opened = markdown.renderer.rules.link_open ?? ((tokens, i, options, _, self) => self.renderToken(tokens, i, options));
markdown.renderer.rules.link_open = (tokens, i, options, env, self) => {
  tokens[i].attrSet("rel", "noopener noreferrer nofollow");
  tokens[i].attrSet("target", "_blank");
  return opened(tokens, i, options, env, self);
};
const policy = window.trustedTypes?.createPolicy("crayon", { createHTML: (text) => markdown.render(text) });

/** Write a text of Markdown into an element: HTML in it stays text, images are not loaded, code can be copied. */
export function rendered(into, text) {
  into.innerHTML = policy ? policy.createHTML(text) : markdown.render(text);
  for (const block of into.querySelectorAll("pre")) {
    const code = block.textContent;
    block.tabIndex = 0;
    block.append(element("button", { type: "button", textContent: "Copy", onclick: (event) => copy(event.currentTarget, code) }));
  }
}

export async function copy(button, text) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not allowed";
  }
  setTimeout(() => { button.textContent = before; }, 1500);
}

export function notice(text) {
  byId("notice").textContent = text ?? "";
  byId("notice").hidden = !text;
}

export const count = (number) => Number(number).toLocaleString("en");
export const fixed = (number) => Number(number).toFixed(2);
export function bytes(number) {
  if (number >= 1e9) return `${(number / 1e9).toFixed(1)} GB`;
  return number >= 1e6 ? `${(number / 1e6).toFixed(0)} MB` : `${count(number)} bytes`;
}
