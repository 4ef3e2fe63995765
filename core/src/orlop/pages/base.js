"use strict";
// What all pages are put together with. Everything is put in as text, never as markup: names come from users.

const $ = (id) => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function state(text, mood) {
  return make("span", { class: `state ${mood}` }, text);
}
