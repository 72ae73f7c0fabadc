/* The frame of the trainer is loaded when its tab is first seen, in the colours of the page. */
(() => {
  const PAGE = "shira/trainer/";

  function fill(frame) {
    const theme = document.body.classList.contains("dark") ? "dark" : "light";
    frame.src = `${PAGE}?__theme=${theme}`;
  }

  onUiLoaded(() => {
    const frame = gradioApp().querySelector("#shira_trainer_frame");
    if (!frame) return;
    const watcher = new IntersectionObserver((seen) => {
      if (!seen.some((each) => each.isIntersecting)) return;
      watcher.disconnect();
      fill(frame);
    });
    watcher.observe(frame);
  });
})();
