/** The page's own words in the user's language: "shira" in locales/<language>/main.json. */
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

let words = {};

/** Ask the server for the words; English stands in for a language that we do not have. */
export async function loadWords() {
  try {
    const all = await (await api.fetchApi("/i18n")).json();
    const language = app.extensionManager?.setting?.get("Comfy.Locale") ?? "en";
    words = { ...all.en?.shira, ...all[language]?.shira };
  } catch (error) {
    console.warn("SHiRA: no translations:", error); // the keys are readable English
  }
}

/** Return the words of a key, with {name} replaced by values.name. */
export function say(key, values = {}) {
  const text = words[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}
