"use strict";
// Planes of the volumes that the page holds; nothing is loaded from anywhere.
(async () => {
  const one = (id) => document.getElementById(id);
  const page = JSON.parse(one("page").textContent);
  const [nz, ny, nx] = page.shape;
  const extents = { z: nz, y: ny, x: nx };
  const middle = { z: nz >> 1, y: ny >> 1, x: nx >> 1 };
  const at = { ...middle };
  let shown = page.first, other = page.before, cross = true;

  // [width, height, index of the voxel at a column and a row from the bottom]
  const planes = {
    xy: [nx, ny, (p, c, r) => (p.z * ny + r) * nx + c],
    xz: [nx, nz, (p, c, r) => (r * ny + p.y) * nx + c],
    zy: [nz, ny, (p, c, r) => (c * ny + r) * nx + p.x],
  };

  const bytesOf = (text) => Uint8Array.from(atob(text.trim()), (c) => c.charCodeAt(0));

  async function unpack(id, plane) {
    const stream = new Blob([bytesOf(one(id).textContent)]).stream();
    const whole = stream.pipeThrough(new DecompressionStream("deflate"));
    const values = new Uint8Array(await new Response(whole).arrayBuffer());
    for (let i = plane; i < values.length; i++) values[i] += values[i - plane];
    return values;
  }

  const grey = Uint8Array.from({ length: 768 }, (_, i) => Math.floor(i / 3));
  const colours = bytesOf(page.colours);

  function picture(width, height, map, value) {
    const image = new ImageData(width, height);
    for (let row = 0; row < height; row++) {
      for (let column = 0; column < width; column++) {
        const to = 4 * (row * width + column);
        const from = 3 * value(column, height - 1 - row);
        image.data[to] = map[from];
        image.data[to + 1] = map[from + 1];
        image.data[to + 2] = map[from + 2];
        image.data[to + 3] = 255;
      }
    }
    const canvas = document.createElement("canvas");
    canvas.width = width;
    canvas.height = height;
    canvas.getContext("2d").putImageData(image, 0, 0);
    return canvas;
  }

  function line(pen, x0, y0, x1, y1) {
    pen.beginPath();
    pen.moveTo(x0, y0);
    pen.lineTo(x1, y1);
    pen.stroke();
  }

  function draw(canvas, plane, volume, place, scale, marked) {
    const [width, height, index] = planes[plane];
    const pixels = window.devicePixelRatio || 1;
    const [w, h] = [width * scale, height * scale];
    canvas.style.width = `${w}px`;
    canvas.style.height = `${h}px`;
    canvas.width = Math.max(1, Math.round(w * pixels));
    canvas.height = Math.max(1, Math.round(h * pixels));
    const map = volume.spread ? colours : grey;
    const values = volume.values;
    const pen = canvas.getContext("2d");
    pen.imageSmoothingEnabled = false;
    pen.drawImage(
      picture(width, height, map, (c, r) => values[index(place, c, r)]),
      0, 0, canvas.width, canvas.height);
    pen.scale(canvas.width / w, canvas.height / h);
    if (marked) {
      const [across, up] = [plane[0], plane[1]];
      const x = (place[across] + 0.5) * scale, y = h - (place[up] + 0.5) * scale;
      pen.strokeStyle = "rgba(255, 176, 0, 0.75)";
      line(pen, x, 0, x, h);
      line(pen, 0, y, w, y);
    }
    if (plane !== "zy" && h > 24) {
      const length = page.bar.voxels * scale;
      for (const [colour, thick] of [["#000", 6], ["#fff", 3]]) {
        pen.strokeStyle = pen.fillStyle = colour;
        pen.lineWidth = thick;
        line(pen, w - 8 - length, h - 8, w - 8, h - 8);
      }
      pen.font = "12px system-ui, sans-serif";
      pen.textAlign = "right";
      pen.lineWidth = 3;
      pen.strokeStyle = "#000";
      pen.strokeText(page.bar.label, w - 8, h - 13);
      pen.fillText(page.bar.label, w - 8, h - 13);
    }
  }

  // Of a voxel in the file, whose voxels are smaller where the page bins.
  const slice = (axis) => Math.min(
    Math.floor((at[axis] + 0.5) * page.factor), page.extents[axis] - 1);
  const place = (axes) => [...axes].map((a) => `${a} = ${slice(a)}`).join(", ");
  const normal = { xy: "z", xz: "y", zy: "x" };

  function valueAt(volume) {
    const byte = volume.values[planes.xy[2](at, at.x, at.y)];
    const value = volume.low + (byte / 255) * (volume.high - volume.low);
    return Number(value.toPrecision(3));
  }

  function scaleFor(room, tall) {
    return Math.max(0.25, Math.min((room - 12) / (nx + nz), tall / (ny + nz)));
  }

  function show() {
    const volume = page.volumes[shown];
    const scale = scaleFor(one("planes").parentElement.clientWidth, 640);
    for (const plane of Object.keys(planes)) {
      const canvas = one(plane);
      draw(canvas, plane, volume, at, scale, cross);
      const said = `${plane} at ${place(normal[plane])}`;
      one(`${plane}-said`).textContent = said;
      canvas.setAttribute("aria-label", `${volume.label}, plane ${said}`);
    }
    for (const axis of "xyz") {
      one(axis).value = at[axis];
      one(axis).setAttribute("aria-valuetext", `slice ${slice(axis)}`);
      one(`${axis}-said`).textContent = `${slice(axis)} of ${page.extents[axis]}`;
    }
    document.querySelectorAll("[data-volume]").forEach((button) => {
      const pressed = Number(button.dataset.volume) === shown;
      button.setAttribute("aria-pressed", String(pressed));
    });
    const spread = page.volumes.find((v) => v.spread && v !== volume);
    const beside = spread ? `, standard deviation ${valueAt(spread)}` : "";
    one("value").textContent =
      `${volume.label} at ${place("xyz")}: ${valueAt(volume)}${beside}`;
    if (volume.power) {
      const size = page.spectrum;
      const image = picture(size, size, grey, (c, r) => volume.power[r * size + c]);
      one("power").getContext("2d").drawImage(image, 0, 0);
      one("power-said").textContent = volume.label;
    }
  }

  function choose(number) {
    if (number !== shown && number < page.volumes.length) {
      [shown, other] = [number, shown];
      show();
    }
  }

  function move(axis, to) {
    at[axis] = Math.max(0, Math.min(extents[axis] - 1, Math.round(to)));
    show();
  }

  const keys = {
    b: () => choose(other),
    c: () => { cross = !cross; show(); },
    m: () => { Object.assign(at, middle); show(); },
  };
  for (const axis of "xyz") {
    keys[axis] = () => move(axis, at[axis] + 1);
    keys[axis.toUpperCase()] = () => move(axis, at[axis] - 1);
  }

  function listen() {
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (/^[1-9]$/.test(event.key)) choose(Number(event.key) - 1);
      else if (keys[event.key]) keys[event.key]();
      else return;
      event.preventDefault();
    });
    document.querySelectorAll("[data-volume]").forEach((button) =>
      button.addEventListener("click", () => choose(Number(button.dataset.volume))));
    document.querySelectorAll("[data-key]").forEach((button) =>
      button.addEventListener("click", () => keys[button.dataset.key]()));
    for (const axis of "xyz") {
      one(axis).addEventListener("input", (event) => move(axis, Number(event.target.value)));
    }
    for (const [plane, [width, height]] of Object.entries(planes)) {
      const canvas = one(plane);
      const point = (event) => {
        if (event.buttons !== 1) return;
        const box = canvas.getBoundingClientRect();
        at[plane[0]] = Math.max(0, Math.min(width - 1,
          Math.floor(((event.clientX - box.left) / box.width) * width)));
        move(plane[1], height - 1 - Math.floor(
          ((event.clientY - box.top) / box.height) * height));
      };
      canvas.addEventListener("pointerdown", point);
      canvas.addEventListener("pointermove", point);
      canvas.addEventListener("wheel", (event) => {
        event.preventDefault();
        const axis = normal[plane];
        move(axis, at[axis] + Math.sign(event.deltaY));
      }, { passive: false });
    }
    window.addEventListener("resize", show);
    one("record-shown").addEventListener("toggle", () => {
      const record = JSON.parse(one("record").textContent);
      one("record-text").textContent = JSON.stringify(record, null, 2);
    });
  }

  function fillGallery() {
    const scale = Math.min(scaleFor(640, 360), 4);
    document.querySelectorAll(".gallery canvas").forEach((canvas) => {
      const volume = page.volumes[Number(canvas.dataset.of)];
      draw(canvas, canvas.dataset.plane, volume, middle, scale, false);
    });
  }

  try {
    for (const [number, volume] of page.volumes.entries()) {
      volume.values = await unpack(`volume-${number}`, ny * nx);
      if (one(`power-${number}`)) {
        volume.power = await unpack(`power-${number}`, page.spectrum);
      }
    }
  } catch (error) {
    one("value").textContent =
      `The volumes cannot be shown by this browser (${error.message}); use a newer one.`;
    return;
  }
  listen();
  show();
  fillGallery();
  document.documentElement.dataset.ready = String(Math.round(performance.now()));
})();
