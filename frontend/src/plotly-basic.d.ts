declare module "plotly.js-basic-dist-min" {
  const plotly: import("./charts/plotly").PlotlyModule;
  export default plotly;
}
