/** What the server says about the adapters in its folders. */
import { api } from "../../scripts/api.js";

const listeners = new Set();
let adapters = [];

/** Read the list anew and tell those who show it. */
export async function refreshAdapters() {
  try {
    const answer = await api.fetchApi("/shira/adapters", { cache: "no-store" });
    if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
    adapters = await answer.json();
  } catch (error) {
    console.error("SHiRA: the list of adapters could not be read:", error);
  }
  for (const listener of listeners) listener();
}

/** Call `listener` after each refresh; returns a function that ends it. */
export function onRefresh(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** Return the names of all adapters. */
export function adapterNames() {
  return adapters.map((adapter) => adapter.name);
}

/** Return what is known of one adapter ({name, architecture, trigger, title, preview}), if any. */
export function findAdapter(name) {
  return adapters.find((adapter) => adapter.name === name);
}

/** Return the address of an adapter's preview picture. */
export function previewAddress(name) {
  return api.apiURL(`/shira/preview?name=${encodeURIComponent(name)}`);
}
