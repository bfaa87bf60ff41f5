"""Looks at a page with Chromium by its DevTools protocol over a pipe; prints what it saw as JSON. Standard library alone.

browser.py CHROMIUM URL DIRECTORY
"""
import base64, json, os, subprocess, sys, tempfile, time

chromium, url, folder = sys.argv[1:4]
to_read, to_write = os.pipe()
from_read, from_write = os.pipe()


def place():
    os.dup2(to_read, 3) if to_read != 3 else os.set_inheritable(3, True)
    os.dup2(from_write, 4) if from_write != 4 else os.set_inheritable(4, True)


# the pipes' own numbers are moved out of the way of 3 and 4 first
to_read, from_write = (os.dup2(fd, new, inheritable=True) for fd, new in ((to_read, 30), (from_write, 31)))
home = tempfile.TemporaryDirectory()
flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
         f"--user-data-dir={home.name}", "about:blank"]
browser = subprocess.Popen([chromium, *flags], preexec_fn=place, close_fds=False,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
os.close(to_read)
os.close(from_write)
number, buffer, events = 0, b"", []


def message(limit):
    global buffer
    import select
    end = time.time() + limit
    while b"\0" not in buffer:
        left = end - time.time()
        if left <= 0 or not select.select([from_read], [], [], left)[0]:
            return None
        more = os.read(from_read, 1 << 20)
        if not more:
            raise SystemExit("Chromium went away")
        buffer += more
    one, buffer = buffer.split(b"\0", 1)
    return json.loads(one)


def call(method, session=None, **params):
    global number
    number += 1
    ask = {"id": number, "method": method, "params": params}
    if session:
        ask["sessionId"] = session
    os.write(to_write, json.dumps(ask).encode() + b"\0")
    while True:
        told = message(60)
        if told is None:
            raise SystemExit(f"no answer to {method}")
        if told.get("id") == number:
            if "error" in told:
                raise SystemExit(f"{method}: {told['error']}")
            return told.get("result", {})
        events.append(told)


def until(method, limit=30):
    for told in events:
        if told.get("method") == method:
            events.remove(told)
            return told["params"]
    end = time.time() + limit
    while time.time() < end:
        told = message(end - time.time())
        if told and told.get("method") == method:
            return told["params"]
        if told:
            events.append(told)
    raise SystemExit(f"{method} never came")


target = call("Target.createTarget", url="about:blank")["targetId"]
session = call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
for domain in ("Page", "Runtime", "Log", "Network", "Accessibility", "DOM"):
    call(f"{domain}.enable", session)
out = {"shots": [], "first_paint_ms": [], "bytes": 0}


def js(expression, wait=False):
    got = call("Runtime.evaluate", session, expression=expression, returnByValue=True, awaitPromise=wait, userGesture=True)
    return got["result"].get("value")


def go(width, height, scheme):
    call("Emulation.setDeviceMetricsOverride", session, width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
    call("Emulation.setEmulatedMedia", session, features=[{"name": "prefers-color-scheme", "value": scheme},
                                                          {"name": "prefers-reduced-motion", "value": "reduce"}])
    events[:] = [e for e in events if e.get("method") != "Page.loadEventFired"]
    call("Page.navigate", session, url=url)
    until("Page.loadEventFired")


def shot(name):
    size = call("Page.getLayoutMetrics", session)["cssContentSize"]
    clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 4000), "scale": 1}
    picture = call("Page.captureScreenshot", session, format="png", captureBeyondViewport=True, clip=clip)["data"]
    path = os.path.join(folder, name + ".png")
    with open(path, "wb") as file:
        file.write(base64.b64decode(picture))
    out["shots"].append(path)


def key(letter):
    for kind in ("keyDown", "keyUp"):
        call("Input.dispatchKeyEvent", session, type=kind, key=letter, text=letter if kind == "keyDown" else "")


for n, (name, width, height, scheme) in enumerate((("light", 1280, 900, "light"), ("dark", 1280, 900, "dark"),
                                                   ("narrow", 390, 844, "light"))):
    go(width, height, scheme)
    js("new Promise(done => requestAnimationFrame(() => setTimeout(done, 150)))", True)
    out["first_paint_ms"].append(js("performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? -1"))
    if n == 0:
        out["bytes"] = js("[...performance.getEntriesByType('resource'), ...performance.getEntriesByType('navigation')]"
                          ".reduce((sum, one) => sum + one.transferSize, 0)")
    out[f"overflow_{name}"] = js("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    shot(name)

go(1280, 900, "light")
tree = call("Accessibility.getFullAXTree", session)["nodes"]
out["tree"] = [[n["role"]["value"], n.get("name", {}).get("value", "")] for n in tree if not n.get("ignored")]
out["title"] = js("document.title")
out["lang"] = js("document.documentElement.lang")
focus = "document.activeElement.id || document.activeElement.tagName"
for letter in "wcf":
    key(letter)
    out[f"key_{letter}"] = js(focus)
key("j")
out["key_j"] = js("document.activeElement.parentElement.id")
call("Browser.grantPermissions", origin=url.rstrip("/"), permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
out["copy"] = js("(async () => { document.querySelector('[data-copy]')?.click(); await new Promise(d => setTimeout(d, 300));"
                 " return document.getElementById('said').textContent })()", True)
out["button_hidden"] = js("document.querySelector('[data-copy]')?.hidden ?? null")
js("window.kept = document.getElementById('way'); document.querySelectorAll('details').forEach(d => { d.open = true })")
first = js("document.getElementById('time').dataset.time")
time.sleep(5)
out["lives"] = js("document.getElementById('time').dataset.time") != first
out["kept"] = js("window.kept === document.getElementById('way') && [...document.querySelectorAll('details')].every(d => d.open)")
out["focus_kept"] = js("document.activeElement.parentElement.id") == out["key_j"]
key("p")
out["paused"] = js("document.getElementById('pause').getAttribute('aria-pressed')")

out["requests"] = sorted({e["params"]["request"]["url"] for e in events if e.get("method") == "Network.requestWillBeSent"})
out["console"] = [json.dumps(e["params"])[:400] for e in events
                  if e.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded")
                  or e.get("method") == "Runtime.consoleAPICalled" and e["params"]["type"] in ("error", "warning")]
call("Emulation.setScriptExecutionDisabled", session, value=True)
go(1280, 900, "light")
shot("no-script")
call("Emulation.setScriptExecutionDisabled", session, value=False)
out["without_script"] = js("document.getElementById('main').innerText")
print(json.dumps(out))
browser.kill()
browser.wait()
home.cleanup()
