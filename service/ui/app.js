// The page: who uses it, which view is shown, and what stands around every view.
import { effect, html, render, useEffect, useRef, useState } from "./vendor.js";
import { isLocked, login, logout, may, recognise, session } from "./core/api.js";
import { connection, listen, stopListening } from "./core/events.js";
import { bindings, useKeys } from "./core/keys.js";
import { keepUp, models, readCameras, readModels, status } from "./core/live.js";
import { href, mayLeave, route } from "./core/route.js";
import { language, LANGUAGES, speak, t } from "./core/text.js";
import { KeyTable } from "./parts/keytable.js";
import { Dialog, errorText, Notices } from "./parts/notice.js";
import { VIEWS } from "./views/views.js";

const THEMES = ["system", "light", "dark"];

function dress(theme) {
  localStorage.setItem("maskline.theme", theme);
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

function LoginForm() {
  const [key, setKey] = useState("");
  const [error, setError] = useState(null);
  const enter = async (event) => {
    event.preventDefault();
    try {
      await login(key.trim());
    } catch (failure) {
      setError(failure);
    }
  };
  return html`<form class="panel" onSubmit=${enter}>
    <h1 id="login-title">Maskline</h1>
    <p>${t(isLocked.value ? "login.locked" : "login.text")}</p>
    <input autocomplete="username" value=${session.value?.name ?? "Maskline"} readonly hidden />
    <label class="field">
      <span>${t("login.key")}</span>
      <input type="password" autocomplete="current-password" autofocus required value=${key} onInput=${(event) => setKey(event.target.value)} />
    </label>
    ${error && html`<p class="failed" role="alert">${errorText(error)}</p>`}
    <button class="primary" type="submit">${t("login.enter")}</button>
    <${LanguageChoice} />
  </form>`;
}

const Login = () => html`<main class="login"><${LoginForm} /></main>`;

/** Over a page whose key went: modal, since a dialog of that page may be open behind it. */
function Lock() {
  const dialog = useRef(null);
  const open = () => dialog.current?.showModal();
  useEffect(open, []);
  return html`<dialog ref=${dialog} class="login lock" aria-labelledby="login-title" onCancel=${(event) => event.preventDefault()} onClose=${open}>
    <${LoginForm} />
  </dialog>`;
}

function LanguageChoice() {
  return html`<label class="compact-field">
    <span class="hidden-text">${t("shell.language")}</span>
    <select value=${language.value} onChange=${(event) => speak(event.target.value)}>
      ${Object.entries(LANGUAGES).map(([code, name]) => html`<option value=${code}>${name}</option>`)}
    </select>
  </label>`;
}

function ThemeChoice() {
  const [theme, setTheme] = useState(localStorage.getItem("maskline.theme") ?? "system");
  const change = (event) => {
    setTheme(event.target.value);
    dress(event.target.value);
  };
  return html`<label class="compact-field">
    <span class="hidden-text">${t("shell.theme")}</span>
    <select value=${theme} onChange=${change}>
      ${THEMES.map((name) => html`<option value=${name}>${t(`theme.${name}`)}</option>`)}
    </select>
  </label>`;
}

function Connection() {
  const state = connection.value === "lost" ? "lost" : status.value;
  return html`<span class="connection connection-${state}" role="status">${t(`connection.${state}`)}</span>`;
}

function Navigation({ current }) {
  const shown = VIEWS.filter((view) => view.inNavigation !== false && (view.role === null || may(view.role)));
  return html`<nav aria-label=${t("shell.views")}>
    <ul>
      ${shown.map(
        (view) => html`<li>
          <a href=${href(view.name)} aria-current=${current === view.name ? "page" : null}>${t(`nav.${view.name}`)}</a>
        </li>`,
      )}
    </ul>
  </nav>`;
}

function Shell() {
  const [showsKeys, setShowsKeys] = useState(false);
  useKeys({ help: () => setShowsKeys(true) });
  const asked = VIEWS.find((view) => view.name === route.value.view) ?? VIEWS[0];
  const isAllowed = asked.role === null || may(asked.role);
  const hasNothing = models.value !== null && models.value.known.length === 0 && may("operate");
  // By its address, so that the steps stay when there is a model at last.
  const leads = hasNothing && asked.name === "wall";
  const view = leads ? VIEWS.find(({ name }) => name === "start") : asked;
  useEffect(() => {
    if (leads) location.replace(href("start"));
  }, [leads]);
  useEffect(() => {
    document.title = `${t(`nav.${view.name}`)} · Maskline`;
    document.documentElement.classList.toggle("big-screen", route.value.query.big === "1");
  });
  return html`<a class="skip" href="#main" onClick=${(event) => {
      event.preventDefault();
      document.getElementById("main").focus();
    }}>${t("shell.skip")}</a>
    <header class="top">
      <a class="brand" href=${href("wall")}><img src="icon.svg" alt="" width="24" height="24" />Maskline</a>
      <${Navigation} current=${view.name} />
      <div class="top-end">
        <${Connection} />
        <button type="button" class="quiet" aria-label=${t("shell.keys")} title="${t("shell.keys")} (${bindings.value.help})" onClick=${() => setShowsKeys(true)}>?</button>
        <${LanguageChoice} /><${ThemeChoice} />
        ${session.value.auth &&
        html`<span class="who"><bdi>${session.value.name}</bdi></span>
          <button type="button" class="quiet" onClick=${() => mayLeave() && logout()}>${t("login.leave")}</button>`}
      </div>
    </header>
    <main id="main" tabindex="-1" class="view view-${view.name}">
      ${isAllowed ? html`<${view.component} key=${view.name} />` : html`<p class="failed">${t("error.role_insufficient")}</p>`}
    </main>
    ${showsKeys && html`<${Dialog} title=${t("shell.keys")} onClose=${() => setShowsKeys(false)}><${KeyTable} /></${Dialog}>`}`;
}

function App() {
  if (session.value === null) return html`<main class="login"><p class="busy" role="status">${t("state.loading")}</p></main>`;
  if (!session.value) return html`<${Login} /><${Notices} />`;
  // By its name: somebody else's key begins with nothing of what was written before.
  return html`<div class=${isLocked.value ? "locked" : ""}><${Shell} key=${session.value.name} /></div>
    ${isLocked.value && html`<${Lock} />`}<${Notices} />`;
}

async function start() {
  dress(localStorage.getItem("maskline.theme") ?? "system");
  await speak(language.value);
  render(html`<${App} />`, document.getElementById("app"));
  keepUp();
  effect(() => {
    if (!session.value || isLocked.value) return stopListening();
    listen();
    readModels().catch(() => {});
    readCameras().catch(() => {});
  });
  for (;;) {
    try {
      await recognise();
      return;
    } catch {
      await new Promise((done) => setTimeout(done, 3000)); // the service is starting, or away
    }
  }
}

start();
