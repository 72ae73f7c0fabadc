drawn((value) => {
  const scrolled = place.querySelector("pre.log");
  const atEnd = scrolled && scrolled.scrollHeight - scrolled.scrollTop - scrolled.clientHeight < 30;
  place.innerHTML = value || "";
  const log = place.querySelector("pre.log");
  if (log && (atEnd || !scrolled)) log.scrollTop = log.scrollHeight;
});
